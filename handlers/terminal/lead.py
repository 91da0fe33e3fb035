"""The commands about leads."""

from pathlib import Path

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, add_limit, at_least_one, instant
from handlers.terminal.export import FORMATS, export_leads
from handlers.terminal.output import (
    Columns,
    Row,
    list_rows,
    moment,
    note,
    print_result,
    show_record,
    utc_seconds,
)
from models.building import find_building
from models.clock import utc_text_or_none
from models.customer import find_customer
from models.errors import NotFound
from models.lead_actions import assign_lead, correct_slot, release_lead, send_lead
from models.lead_dict import ActionDict, AttemptDict, LeadDetailDict
from models.lead_record import list_leads, show_lead
from models.outbox.delivery import NEW_LEAD
from models.slot import Remark

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

REMARKS = {
    Remark.DATE_ALONE: "this is a day without an hour",
    Remark.PAST: "this time is already past",
    Remark.REPEATED: "the clocks go back that day, so this time comes twice; the first one is taken",
    Remark.SKIPPED: "the clocks skip this time that day; the tour is as much later as they skip",
}


def add_commands(nouns: Nouns) -> None:
    """Add `lead` and its commands to the parser."""
    noun = Noun(nouns, "lead", "list, export, assign, send, correct and release leads")
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
    assign = noun.command("assign", _assign, "give a lead to a building, and mail its agent")
    assign.add_argument("id", type=at_least_one, metavar="ID")
    assign.add_argument("building", type=at_least_one, metavar="BUILDING")
    send = noun.command("send", _send, "send a lead's mail again, to the building's agent or another address")
    send.add_argument("id", type=at_least_one, metavar="ID")
    send.add_argument("--to", metavar="ADDRESS", help="an e-mail address (default: the building's agent's)")
    correct = noun.command(
        "correct", _correct, "correct the time of a lead's tour, and mail who has the lead"
    )
    correct.add_argument("id", type=at_least_one, metavar="ID")
    slot = correct.add_mutually_exclusive_group(required=True)
    slot.add_argument(
        "--slot",
        metavar="WHEN",
        help="the tour's time, like 2026-12-01T10:00; without an offset in the building's time zone",
    )
    slot.add_argument("--no-slot", action="store_true", help="there is no tour")
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
    if context.args.json:
        show_record(record, as_json=True)
    else:
        told_apart = {name: value for name, value in record.items() if name not in ("attempts", "actions")}
        show_record({**told_apart, "ledger": "\n".join(ledger_lines(record))}, as_json=False)


def ledger_lines(lead: LeadDetailDict) -> list[str]:
    """Return a line for each attempt at a delivery of the lead and each action on it, the oldest first."""
    lines = [(attempt["started_at"], _attempt_line(attempt)) for attempt in lead["attempts"]]
    lines += [(action["at"], _action_line(action)) for action in lead["actions"]]
    return [f"{utc_seconds(at)}  {line}" for at, line in sorted(lines, key=lambda line: line[0])]


def _attempt_line(attempt: AttemptDict) -> str:
    kind = attempt["kind"] if attempt["content"] == NEW_LEAD else f"{attempt['kind']} {attempt['content']}"
    recipient = f" to {attempt['recipient']}" if attempt["recipient"] else ""
    outcome = attempt["outcome"] or "not ended yet"
    answer = f": {attempt['answer']}" if attempt["answer"] else ""
    which = f"delivery {attempt['delivery_id']}, attempt {attempt['number']}"
    return f"{which}: {kind}{recipient}: {outcome}{answer}"


def _action_line(action: ActionDict) -> str:
    subject = f" {action['delivery_id']}" if action["delivery_id"] else ""
    fields = f" ({', '.join(action['fields'])})" if action["fields"] else ""
    return f"{action['action']}{subject}{fields} by {action['actor']}, {action['actor_kind']}"


def _assign(context: DatabaseContext) -> None:
    args = context.args
    assigned = context.storage.write(assign_lead, context.actor, args.id, args.building, context.clock.now())
    building, not_told, waits = assigned.building, assigned.not_told, assigned.waits_because
    print_result(
        {
            "id": args.id,
            "building_id": building.id,
            "not_told": not_told,
            "taken_from": assigned.taken_from,
            "waits_because": waits,
        },
        args.json,
        f"Lead {args.id} is of building {building.id} now: {building.name}",
        f"Nobody is mailed: {not_told}."
        if not_told and not assigned.taken_from
        else f"No agent is mailed: {not_told}."
        if not_told
        else f"The mail to {building.agent_email} {_way(waits)}.",
        *(f"The mail to {to}, who had the lead, {_way(waits)}." for to in assigned.taken_from),
    )


def _send(context: DatabaseContext) -> None:
    args = context.args
    sent = context.storage.write(send_lead, context.actor, args.id, args.to, context.clock.now())
    print_result(
        {
            "id": args.id,
            "delivery_id": sent.delivery_id,
            "recipient": sent.recipient,
            "waits_because": sent.waits_because,
        },
        args.json,
        f"The mail to {sent.recipient} {_way(sent.waits_because)}: delivery {sent.delivery_id}.",
    )


def _correct(context: DatabaseContext) -> None:
    args = context.args
    corrected = context.storage.write(correct_slot, context.actor, args.id, args.slot, context.clock.now())
    slot = utc_text_or_none(corrected.slot)
    when = f"at {utc_seconds(slot)}" if slot else None
    if corrected.is_date:
        when = f"on {args.slot.strip()}, without an hour"
    print_result(
        {
            "id": args.id,
            "slot": slot,
            "mailed": corrected.mailed,
            "waits_because": corrected.waits_because,
        },
        args.json,
        f"The tour of lead {args.id} is {when} now." if when else f"Lead {args.id} has no tour now.",
        *(f"The mail to {to} {_way(corrected.waits_because)}." for to in corrected.mailed),
        *(
            []
            if corrected.mailed
            else ["No mail is added: mail that has not left yet leaves with this change."]
            if corrected.is_unsent
            else ["No mail is added: nobody has the lead."]
        ),
    )
    for remark, sentence in REMARKS.items():
        if remark in corrected.remarks:
            note(f"note: {sentence}")


def _way(waits_because: str | None) -> str:
    return f"waits: {waits_because}" if waits_because else "is on its way"


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
