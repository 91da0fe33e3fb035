"""The commands about buildings' tokens."""

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, at_least_one, duration
from handlers.terminal.output import Columns, list_rows, moment, note, print_result
from models.building import has_no_working_token, list_tokens, token_as_dict
from models.building_actions import issue_token, revoke_token, rotate_token
from models.clock import utc_text

COLUMNS: Columns = {
    "token": "token",
    "building": "building_id",
    "state": "state",
    "issued": moment("created_at"),
    "expires": moment("expires_at"),
    "revoked": moment("revoked_at"),
}


def add_commands(nouns: Nouns) -> None:
    """Add `token` and its commands to the parser."""
    noun = Noun(nouns, "token", "manage the tokens that tie a website's leads to a building")
    issue = noun.command("issue", _issue, "issue one more token to a building")
    issue.add_argument("building", type=at_least_one, metavar="BUILDING")
    issue.add_argument("--token", help="the token (default: a new one)")
    rotate = noun.command("rotate", _rotate, "replace a building's tokens by a new one")
    rotate.add_argument("building", type=at_least_one, metavar="BUILDING")
    rotate.add_argument(
        "--overlap",
        type=duration,
        default="7d",
        metavar="SPAN",
        help="how long the old tokens still work: 90s, 30m, 12h, 7d (default: %(default)s)",
    )
    revoke = noun.command("revoke", _revoke, "revoke a token at once")
    revoke.add_argument("token", metavar="TOKEN")
    listing = noun.command("list", _list, "list tokens, of all buildings or of one")
    listing.add_argument("building", type=at_least_one, metavar="BUILDING", nargs="?")


def _issue(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    issued = context.storage.write(issue_token, context.actor, args.building, args.token, now)
    print_result(
        token_as_dict(issued, now), args.json, f"Building {args.building} has one more token: {issued.token}"
    )


def _rotate(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    issued = context.storage.write(rotate_token, context.actor, args.building, args.overlap, now)
    print_result(
        token_as_dict(issued, now),
        args.json,
        f"Building {args.building} has a new token: {issued.token}",
        f"Paste it into its website; its older ones work until {utc_text(now + args.overlap)} at the latest.",
    )


def _revoke(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    revoked = context.storage.write(revoke_token, context.actor, args.token, now)
    building_id = revoked.building_id
    print_result(
        token_as_dict(revoked, now),
        args.json,
        f"Token {revoked.token} of building {building_id} was revoked.",
    )
    if context.storage.read(has_no_working_token, building_id, now):
        note(
            f"note: building {building_id} has no token that works now; "
            f"'token issue {building_id}' gives it one"
        )


def _list(context: DatabaseContext) -> None:
    rows = context.storage.read(list_tokens, context.args.building, context.clock.now())
    list_rows(rows, COLUMNS, context.args.json, "There are no tokens.")
