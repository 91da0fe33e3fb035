"""Owns the commands about buildings' tokens."""

import argparse

from handlers.terminal.arguments import Noun, Nouns, at_least_one, duration
from handlers.terminal.listing import Columns, answer, list_rows, moment, note
from models.building import (
    find_building,
    issue_token,
    list_tokens,
    revoke_token,
    rotate_token,
    token_as_dict,
    working_tokens,
)
from models.clock import Clock, utc_text
from models.settings import Settings
from models.storage.sqlite.connection import transaction

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
    noun = Noun(nouns, "token", "the tokens that tie a website's leads to a building")
    issue = noun.command("issue", _issue, "give a building one more token")
    issue.add_argument("building", type=at_least_one, metavar="BUILDING")
    issue.add_argument("--token", help="this one (a new one if not given)")
    rotate = noun.command("rotate", _rotate, "give a building a new token in place of those it has")
    rotate.add_argument("building", type=at_least_one, metavar="BUILDING")
    rotate.add_argument(
        "--overlap",
        type=duration,
        default="7d",
        metavar="SPAN",
        help="how long the old ones go on working: 90s, 30m, 12h, 7d (default: %(default)s)",
    )
    revoke = noun.command("revoke", _revoke, "end a token at once")
    revoke.add_argument("token", metavar="TOKEN")
    listing = noun.command("list", _list, "list the tokens, of one building if given")
    listing.add_argument("building", type=at_least_one, metavar="BUILDING", nargs="?")


def _issue(args: argparse.Namespace, settings: Settings) -> None:
    now = Clock().now()
    with transaction():
        issued = issue_token(find_building(args.building), args.token, now)
    answer(
        token_as_dict(issued, now), args.json, f"Building {args.building} has one more token: {issued.token}"
    )


def _rotate(args: argparse.Namespace, settings: Settings) -> None:
    now = Clock().now()
    with transaction():
        issued = rotate_token(find_building(args.building), args.overlap, now)
    answer(
        token_as_dict(issued, now),
        args.json,
        f"Building {args.building} has a new token: {issued.token}",
        f"Paste it into its website; its older ones work until {utc_text(now + args.overlap)} at the latest.",
    )


def _revoke(args: argparse.Namespace, settings: Settings) -> None:
    now = Clock().now()
    with transaction():
        revoked = revoke_token(args.token, now)
        left = working_tokens(revoked.building, now)
    number = revoked.building_id
    answer(token_as_dict(revoked, now), args.json, f"Token {revoked.token} of building {number} was revoked.")
    if not left and revoked.building.removed_at is None:
        note(f"note: building {number} has no token that works now; 'token issue {number}' gives it one")


def _list(args: argparse.Namespace, settings: Settings) -> None:
    building = find_building(args.building) if args.building else None
    list_rows(list_tokens(building, Clock().now()), COLUMNS, args.json, "There are no tokens.")
