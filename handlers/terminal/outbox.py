"""The commands about the outbox."""

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, add_limit, at_least_one
from handlers.terminal.output import Columns, Row, list_rows, moment, note, print_result, say
from models.outbox.actions import pause, resume, retry_deliveries, retry_failed, skip_deliveries
from models.outbox.delivery import NEW_LEAD, STATES
from models.outbox.destination import KINDS
from models.outbox.listing import DestinationDict, list_deliveries, list_destinations

MOST_NAMED = 20  # deliveries whose ids are printed; of more only their number is

COLUMNS: Columns = {
    "id": "id",
    "lead": "lead_id",
    "kind": lambda row: _kind(row),
    "to": "recipient",
    "state": "state",
    "attempts": "attempts",
    "due": moment("due_at"),
    "settled": moment("settled_at"),
    "reason or answer": lambda row: row["reason"] or row["answer"],
}


def add_commands(nouns: Nouns) -> None:
    """Add `outbox` and its commands to the parser."""
    noun = Noun(nouns, "outbox", "manage the deliveries that leads cause")
    listing = noun.command("list", _list, "list deliveries, the newest first")
    listing.add_argument("--state", choices=STATES, help="only those in this state")
    listing.add_argument("--kind", choices=KINDS, help="only those of this kind")
    listing.add_argument("--lead", type=at_least_one, metavar="ID", help="only those of this lead")
    add_limit(listing)
    retry = noun.command("retry", _retry, "retry deliveries now: by id, or all that failed")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", type=at_least_one, metavar="ID", nargs="*", default=[])
    which.add_argument("--failed", action="store_true", help="all that failed")
    retry.add_argument("--kind", choices=KINDS, help="with --failed: only those of this kind")
    skip = noun.command("skip", _skip, "cancel quarantined, pending or failed deliveries")
    skip.add_argument("ids", type=at_least_one, metavar="ID", nargs="+")
    for name, run, help in (
        ("pause", _pause, "pause a kind of delivery; it waits in the outbox"),
        ("resume", _resume, "resume a paused or failing kind of delivery at once"),
    ):
        noun.command(name, run, help).add_argument(
            "kind", choices=KINDS, metavar="KIND", help=" or ".join(KINDS)
        )


def _list(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    if not args.json:
        say(*map(_in_one_line, context.storage.read(list_destinations, now)), "")
    rows = context.storage.read(list_deliveries, args.state, args.kind, args.limit, now, args.lead)
    list_rows(rows, COLUMNS, args.json, "There are no such deliveries.")


def _kind(row: Row) -> str:
    return str(row["kind"]) if row["content"] == NEW_LEAD else f"{row['kind']} {row['content']}"


def _in_one_line(destination: DestinationDict) -> str:
    state = destination["waits_because"] or "open"
    counts = (
        f"{destination['pending']} waiting, {destination['sending']} sending, {destination['failed']} failed"
    )
    return f"{destination['kind']}: {state}; {counts}"


def _retry(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    if args.kind and not args.failed:
        args.refuse_usage("--kind goes with --failed")
    if args.failed:
        ids = context.storage.write(retry_failed, context.actor, args.kind, now)
    else:
        ids = context.storage.write(retry_deliveries, context.actor, args.ids, now)
    words = f"Due now: {_named(ids)}" if ids else "Nothing has failed."
    print_result({"retried": ids}, args.json, words)
    for destination in context.storage.read(list_destinations, now) if ids else ():
        if destination["waits_because"] and destination["pending"]:
            note(f"note: {_in_one_line(destination)}")


def _skip(context: DatabaseContext) -> None:
    args = context.args
    ids = context.storage.write(skip_deliveries, context.actor, args.ids, context.clock.now())
    words = f"Not to leave: {_named(ids)}; 'outbox retry' would have them leave still."
    print_result({"skipped": ids}, args.json, words)


def _named(ids: list[int]) -> str:
    if len(ids) > MOST_NAMED:
        return f"{len(ids)} deliveries"
    return f"{'delivery' if len(ids) == 1 else 'deliveries'} {', '.join(map(str, ids))}"


def _pause(context: DatabaseContext) -> None:
    context.storage.write(pause, context.actor, context.args.kind, context.clock.now())
    _print_destination(context)


def _resume(context: DatabaseContext) -> None:
    context.storage.write(resume, context.actor, context.args.kind, context.clock.now())
    _print_destination(context)


def _print_destination(context: DatabaseContext) -> None:
    for destination in context.storage.read(list_destinations, context.clock.now()):
        if destination["kind"] == context.args.kind:
            print_result(destination, context.args.json, _in_one_line(destination))
