"""Owns the commands about the outbox."""

import argparse

from handlers.terminal.arguments import Noun, Nouns, add_limit, at_least_one
from handlers.terminal.listing import Columns, Row, answer, list_rows, moment, note, say
from models.clock import Clock
from models.outbox.actions import retry_deliveries, retry_failed, skip_deliveries
from models.outbox.delivery import FAILED, PENDING, SENDING, STATES
from models.outbox.destination import KINDS, pause, resume
from models.outbox.listing import list_deliveries, list_destinations
from models.settings import Settings
from models.storage.sqlite.connection import transaction

MOST_NAMED = 20  # deliveries, by their ids; of more it is said how many

COLUMNS: Columns = {
    "id": "id",
    "lead": "lead_id",
    "kind": "kind",
    "state": "state",
    "attempts": "attempts",
    "due": moment("due_at"),
    "settled": moment("settled_at"),
    "reason": "reason",
}


def add_commands(nouns: Nouns) -> None:
    """Add `outbox` and its commands to the parser."""
    noun = Noun(nouns, "outbox", "what leaves because of leads, and how far it has got")
    listing = noun.command("list", _list, "list deliveries, the newest first")
    listing.add_argument("--state", choices=STATES, help="in this state")
    listing.add_argument("--kind", choices=KINDS, help="of this kind")
    add_limit(listing)
    retry = noun.command("retry", _retry, "make deliveries due now: these, or all that failed")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", type=at_least_one, metavar="ID", nargs="*", default=[])
    which.add_argument("--failed", action="store_true", help="all that failed")
    retry.add_argument("--kind", choices=KINDS, help="with --failed: of this kind")
    skip = noun.command("skip", _skip, "have deliveries that wait or failed not leave at all")
    skip.add_argument("ids", type=at_least_one, metavar="ID", nargs="+")
    for name, run, help in (
        ("pause", _pause, "keep a kind of delivery from leaving; it waits in the outbox"),
        ("resume", _resume, "let a kind of delivery leave again, at once, whatever held it"),
    ):
        noun.command(name, run, help).add_argument(
            "kind", choices=KINDS, metavar="KIND", help=" or ".join(KINDS)
        )


def _list(args: argparse.Namespace, settings: Settings) -> None:
    now = Clock().now()
    if not args.json:
        say(*map(_in_one_line, list_destinations(now)), "")
    rows = list_deliveries(args.state, args.kind, args.limit, now)
    list_rows(rows, COLUMNS, args.json, "There are no such deliveries.")


def _in_one_line(destination: Row) -> str:
    counts = ", ".join(
        f"{destination[state]} {word}"
        for state, word in ((PENDING, "waiting"), (SENDING, "sending"), (FAILED, "failed"))
    )
    return f"{destination['kind']}: {destination['waits_because'] or 'open'}; {counts}"


def _retry(args: argparse.Namespace, settings: Settings) -> None:
    if args.kind and not args.failed:
        args.refuse_usage("--kind goes with --failed")
    now = Clock().now()
    with transaction():
        ids = retry_failed(args.kind, now) if args.failed else retry_deliveries(args.ids, now)
        closed = [place for place in list_destinations(now) if place["waits_because"] and place[PENDING]]
    said = f"Due now: {_named(ids)}" if ids else "Nothing has failed."
    answer({"retried": ids}, args.json, said)
    for place in closed if ids else ():
        note(f"note: {_in_one_line(place)}")


def _skip(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        ids = skip_deliveries(args.ids, Clock().now())
    said = f"Not to leave: {_named(ids)}; 'outbox retry' would have them leave still."
    answer({"skipped": ids}, args.json, said)


def _named(ids: list[int]) -> str:
    if len(ids) > MOST_NAMED:
        return f"{len(ids)} deliveries"
    return f"{'delivery' if len(ids) == 1 else 'deliveries'} {', '.join(map(str, ids))}"


def _pause(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        pause(args.kind)
    _answer_with_destination(args)


def _resume(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        resume(args.kind)
    _answer_with_destination(args)


def _answer_with_destination(args: argparse.Namespace) -> None:
    for destination in list_destinations(Clock().now()):
        if destination["kind"] == args.kind:
            answer(destination, args.json, _in_one_line(destination))
