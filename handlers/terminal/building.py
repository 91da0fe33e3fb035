"""The commands about buildings."""

import argparse
import shlex
from datetime import timedelta

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, at_least_one
from handlers.terminal.output import Columns, list_rows, moment, note, print_result, show_record
from models.building import BuildingDict, building_as_dict, list_buildings, show_building, website_urls
from models.building_actions import add_building, remove_building, update_building
from models.unregistered_origins import UnregisteredOrigin, list_unregistered_origins

# The option of each field, and its help.
FIELDS = {
    "name": ("--name", "its name"),
    "address_line_one": ("--address", "its street address, as its website sends it"),
    "unified_address_id": ("--unified-address-id", "its unified address id"),
    "agent_email": ("--agent-email", "the address that mail about its leads goes to"),
    "spam_defence": (
        "--spam-defence",
        "off marks the mail of a lead that fills in the honeypot; mark does so for all that look like spam; "
        "hold quarantines these (default: off)",
    ),
    "time_zone": ("--time-zone", "its time zone, like America/New_York (default: UTC)"),
}
COLUMNS: Columns = {
    "id": "id",
    "name": "name",
    "address": "address_line_one",
    "unified address id": "unified_address_id",
    "websites": "website_urls",
    "agent e-mail": "agent_email",
    "time zone": "time_zone",
    "tokens": "tokens",
}


RECENT = timedelta(days=7)
ORIGIN_COLUMNS: Columns = {
    "origin": "origin",
    "building": lambda row: row["building_id"] or "unassigned",
    "leads": "leads",
    "last": moment("last_at"),
    "in its domain": "within_domain",
    "to register it": lambda row: row["command"] or "it can't be: the page hides its origin",
}


def add_commands(nouns: Nouns) -> None:
    """Add `building` and its commands to the parser."""
    noun = Noun(nouns, "building", "manage the buildings whose websites send leads")
    add = noun.command("add", _add, "register a building and issue its token", creates_database=True)
    _add_fields(add, name_required=True)
    _add_websites(
        add, "a website of it, whose pages may then send leads; repeat it for several, such as www and apex"
    )
    add.add_argument("--token", help="the token that its website sends already (default: a new one)")
    noun.command("list", _list, "list registered buildings")
    noun.command("origins", _origins, "list origins that forms came from and that no building has")
    for name, run, help in (
        ("show", _show, "show a building"),
        ("update", _update, "change fields of a building; an empty text clears one"),
        ("remove", _remove, "remove a building; its leads stay"),
    ):
        command = noun.command(name, run, help)
        command.add_argument("id", type=at_least_one, metavar="ID")
        if run is _update:
            _add_fields(command, name_required=False)
            _add_websites(
                command, "make this its website in place of those it has; repeatable; '' removes all"
            )
            _add_websites(command, "add a website; repeatable", "--add-website")
            _add_websites(command, "remove a website, by its URL or origin; repeatable", "--remove-website")


def _add_fields(parser: argparse.ArgumentParser, name_required: bool) -> None:
    for field, (option, help) in FIELDS.items():
        needed = name_required and field == "name"
        parser.add_argument(option, dest=field, metavar=option[2:].upper(), help=help, required=needed)


def _add_websites(parser: argparse.ArgumentParser, help: str, option: str = "--website") -> None:
    parser.add_argument(option, action="append", metavar="URL", help=help)


def _given(args: argparse.Namespace) -> dict[str, str | None]:
    return {field: getattr(args, field) for field in FIELDS if getattr(args, field) is not None}


def _add(context: DatabaseContext) -> None:
    args, settings = context.args, context.settings
    added, token = context.storage.write(
        add_building, context.actor, _given(args), args.token, context.clock.now(), args.website or ()
    )
    building = context.storage.read(show_building, added.id, context.clock.now())
    print_result(
        {**building, "token": token},
        args.json,
        f"Building {added.id} was added: {added.name}",
        f"Its token: {token}",
        f'Paste it into its website, to be sent as "token" to {settings.public_url}/api/v1/website_leads',
        f"Its leads are taken by the server that runs on {settings.data_dir.absolute()}.",
    )
    _warn_of_missing_fields(building)


def _warn_of_missing_fields(building: BuildingDict) -> None:
    change = f"'building update {building['id']}"
    if not building["agent_email"]:
        note(f"note: without an agent e-mail nobody is told of its leads; {change} --agent-email …' sets it")
    if not building["website_urls"]:
        note(f"note: without a website scripts can't send leads; {change} --add-website https://…' adds one")


def _list(context: DatabaseContext) -> None:
    rows = context.storage.read(list_buildings, context.clock.now())
    list_rows(rows, COLUMNS, context.args.json, "There are no buildings yet; 'building add' registers one.")


def _origins(context: DatabaseContext) -> None:
    rows = context.storage.read(list_unregistered_origins, context.clock.now() - RECENT)
    list_rows(
        ({**row, "command": _command_to_register(row)} for row in rows),
        ORIGIN_COLUMNS,
        context.args.json,
        f"In the last {RECENT.days} days no form came from an unregistered origin.",
    )


def _command_to_register(row: UnregisteredOrigin) -> str | None:
    if not row["can_be_registered"]:
        return None
    return f"building update {row['building_id'] or 'ID'} --add-website {shlex.quote(row['origin'])}"


def _show(context: DatabaseContext) -> None:
    building = context.storage.read(show_building, context.args.id, context.clock.now())
    show_record(building, context.args.json)


def _update(context: DatabaseContext) -> None:
    args, now = context.args, context.clock.now()
    fields = _given(args)
    if not fields and args.website is None and not args.add_website and not args.remove_website:
        options = [
            *(option for option, _ in FIELDS.values()),
            "--website",
            "--add-website",
            "--remove-website",
        ]
        args.refuse_usage(f"say what to change: {', '.join(options)}")
    context.storage.write(
        update_building,
        context.actor,
        args.id,
        fields,
        now,
        args.website,
        add_websites=args.add_website or (),
        remove_websites=args.remove_website or (),
    )
    building = context.storage.read(show_building, args.id, now)
    print_result(building, args.json, f"Building {args.id} was changed: {building['name']}")
    _warn_of_missing_fields(building)


def _remove(context: DatabaseContext) -> None:
    removed = context.storage.write(remove_building, context.actor, context.args.id, context.clock.now())
    print_result(
        building_as_dict(removed, (), context.storage.read(website_urls, removed.id)),
        context.args.json,
        f"Building {removed.id} was removed: {removed.name}",
        "Its tokens and websites work no more; its leads stay.",
    )
