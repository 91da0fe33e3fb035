"""The commands about leads."""

from pathlib import Path

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, add_limit, at_least_one, instant
from handlers.terminal.export import FORMATS, export_leads
from handlers.terminal.output import Columns, Row, list_rows, moment, print_result, show_record
from models.building import find_building
from models.customer import find_customer
from models.errors import NotFound
from models.lead_actions import assign_lead, release_lead
from models.lead_record import list_leads, show_lead

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
    noun = Noun(nouns, "lead", "list, export, assign and release leads")
    listing = noun.command("list", _list, "list leads, the newest first")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--building", type=at_least_one, metavar="ID", help="only those of this building")
    which.add_argument("--unassigned", action="store_true", help="only those that matched no building")
    which.add_argument("--suspected", action="store_true", help="only those that look like spam")
    listing.add_argument("--customer", type=at_least_one, metavar="ID", help="only those of this customer")
    listing.add_argument(
        "--since",
        type=instant,
        metavar="TIME",
        help="only those received since, like 2026-11-23 or 2026-11-23T10:00-05:00",
    )
    add_limit(listing)
    show = noun.command("show", _show, "show all data of a lead")
    show.add_argument("id", type=at_least_one, metavar="ID")
    assign = noun.command("assign", _assign, "assign an unassigned lead to a building, and mail its agent")
    assign.add_argument("id", type=at_least_one, metavar="ID")
    assign.add_argument("building", type=at_least_one, metavar="BUILDING")
    release = noun.command("release", _release, "release a lead that looks like spam from quarantine")
    release.add_argument("id", type=at_least_one, metavar="ID")
    export = noun.command("export", _export, "export all leads, the oldest first")
    export.add_argument(
        "--format",
        choices=FORMATS,
        default="csv",
        help="the format of the file (default: %(default)s; --json is json)",
    )
    export.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: standard output)")


def _list(context: DatabaseContext) -> None:
    args, storage = context.args, context.storage
    if args.building:
        storage.read(find_building, args.building, even_removed=True)  # an unknown id is a mistake
    if args.customer:
        storage.read(find_customer, args.customer)
    rows = storage.read_each(
        list_leads,
        building_id=args.building,
        unassigned=args.unassigned,
        suspected=args.suspected,
        customer_id=args.customer,
        since=args.since,
        limit=args.limit,
    )
    list_rows(rows, COLUMNS, args.json, "There are no such leads.", args.limit)


def _deliveries(row: Row) -> str:
    return ", ".join(f"{delivery['kind']} {delivery['state']}" for delivery in row["deliveries"])


def _show(context: DatabaseContext) -> None:
    lead_id = context.args.id
    record = context.storage.read(show_lead, lead_id)
    if record is None:
        raise NotFound(f"there is no lead {lead_id}", "unknown_lead")
    show_record(record, context.args.json)


def _assign(context: DatabaseContext) -> None:
    args = context.args
    assigned = context.storage.write(assign_lead, context.actor, args.id, args.building, context.clock.now())
    building, not_told, waits = assigned.building, assigned.not_told, assigned.waits_because
    mail = f"waits: {waits}" if waits else "is on its way"
    print_result(
        {"id": args.id, "building_id": building.id, "not_told": not_told, "waits_because": waits},
        args.json,
        f"Lead {args.id} is of building {building.id} now: {building.name}",
        f"Nobody is mailed: {not_told}." if not_told else f"The mail to {building.agent_email} {mail}.",
    )


def _release(context: DatabaseContext) -> None:
    lead_id = context.args.id
    released = context.storage.write(release_lead, context.actor, lead_id, context.clock.now())
    print_result(
        {"id": lead_id, "released": released},
        context.args.json,
        f"Lead {lead_id} is no longer suspected of spam. Deliveries released: {released}.",
    )


def _export(context: DatabaseContext) -> None:
    args = context.args
    export_leads(context.storage, "json" if args.json else args.format, args.output)
