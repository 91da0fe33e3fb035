"""Owns the commands about leads."""

import argparse
from pathlib import Path

from handlers.terminal.arguments import Noun, Nouns, add_limit, at_least_one, instant
from handlers.terminal.export import FORMATS, export_leads
from handlers.terminal.listing import Columns, Row, answer, list_rows, moment, show_record
from models.building import find_building
from models.clock import Clock
from models.customer import find_customer
from models.errors import ActionError
from models.lead_actions import assign_lead, release_lead
from models.lead_record import list_leads, show_lead
from models.outbox.destination import EMAIL, Destination, why_waiting
from models.settings import Settings
from models.storage.sqlite.connection import transaction

COLUMNS: Columns = {
    "id": "id",
    "received": moment("created_at"),
    "building": lambda row: row["building_id"] or "unassigned",
    "name": "requestor_name",
    "e-mail": "requestor_email",
    "phone": "requestor_phone",
    "tour": moment("slot"),
    "unit": "unit_preference",
    "source": "listing_source",
    "deliveries": lambda row: _deliveries(row),
}


def add_commands(nouns: Nouns) -> None:
    """Add `lead` and its commands to the parser."""
    noun = Noun(nouns, "lead", "what renters sent")
    listing = noun.command("list", _list, "list leads, the newest first")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--building", type=at_least_one, metavar="ID", help="of this building")
    which.add_argument("--unassigned", action="store_true", help="that matched no building")
    which.add_argument("--suspected", action="store_true", help="that look like spam")
    listing.add_argument("--customer", type=at_least_one, metavar="ID", help="of this customer")
    listing.add_argument(
        "--since",
        type=instant,
        metavar="TIME",
        help="received since, like 2026-11-23 or 2026-11-23T10:00-05:00",
    )
    add_limit(listing)
    show = noun.command("show", _show, "show all that is known of a lead")
    show.add_argument("id", type=at_least_one, metavar="ID")
    assign = noun.command("assign", _assign, "give a lead that matched no building one, and tell its agent")
    assign.add_argument("id", type=at_least_one, metavar="ID")
    assign.add_argument("building", type=at_least_one, metavar="BUILDING")
    release = noun.command("release", _release, "let a lead that looked like spam go its way")
    release.add_argument("id", type=at_least_one, metavar="ID")
    export = noun.command("export", _export, "write all leads, the oldest first")
    export.add_argument(
        "--format", choices=FORMATS, default="csv", help="(default: %(default)s; --json is json)"
    )
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="a new file (standard output if not given)"
    )


def _list(args: argparse.Namespace, settings: Settings) -> None:
    if args.building:
        find_building(args.building, even_removed=True)  # an unknown one is a slip, not an empty list
    if args.customer:
        find_customer(args.customer)
    rows = list_leads(
        building_id=args.building,
        unassigned=args.unassigned,
        suspected=args.suspected,
        customer_id=args.customer,
        since=args.since,
        limit=args.limit,
    )
    list_rows(rows, COLUMNS, args.json, "There are no such leads.", args.limit)


def _release(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        released = release_lead(args.id, Clock().now())
    answer(
        {"id": args.id, "released": released},
        args.json,
        f"Lead {args.id} is suspected no more; {released} that were held leave now.",
    )


def _deliveries(row: Row) -> str:
    return ", ".join(f"{delivery['kind']} {delivery['state']}" for delivery in row["deliveries"])


def _show(args: argparse.Namespace, settings: Settings) -> None:
    record = show_lead(args.id)
    if record is None:
        raise ActionError(f"there is no lead {args.id}; see 'lead list'")
    show_record(record, args.json)


def _assign(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        building = find_building(args.building)
        now = Clock().now()
        not_told = assign_lead(args.id, building, now)
        waits = None if not_told else why_waiting(Destination.get_by_id(EMAIL), now)
    becomes = f"waits: {waits}" if waits else "is on its way"
    answer(
        {"id": args.id, "building_id": building.id, "not_told": not_told, "waits_because": waits},
        args.json,
        f"Lead {args.id} is of building {building.id} now: {building.name}",
        f"Nobody is mailed: {not_told}." if not_told else f"The mail to {building.agent_email} {becomes}.",
    )


def _export(args: argparse.Namespace, settings: Settings) -> None:
    export_leads("json" if args.json else args.format, args.output)
