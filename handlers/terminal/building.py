"""Owns the commands about buildings."""

import argparse

from handlers.terminal.arguments import Noun, Nouns, at_least_one
from handlers.terminal.listing import Columns, answer, list_rows, note, show_record
from models.building import (
    Building,
    add_building,
    building_as_dict,
    find_building,
    list_buildings,
    remove_building,
    update_building,
    working_tokens,
)
from models.clock import Clock
from models.settings import Settings
from models.storage.sqlite.connection import transaction

# The option of each field, and what is said of it.
FIELDS = {
    "name": ("--name", "what people call it"),
    "address_line_one": ("--address", "its street address, as its website sends it"),
    "unified_address_id": ("--unified-address-id", "its unified address id"),
    "website_url": ("--website", "its website's URL; browsers on that site may then send leads"),
    "agent_email": ("--agent-email", "who gets the mail about its leads"),
    "spam_defence": ("--spam-defence", "what becomes of leads that look like spam: off, hold or mark (off)"),
    "time_zone": ("--time-zone", "where it stands, like America/New_York (UTC if not given)"),
}
COLUMNS: Columns = {
    "id": "id",
    "name": "name",
    "address": "address_line_one",
    "unified address id": "unified_address_id",
    "website": "website_url",
    "agent e-mail": "agent_email",
    "time zone": "time_zone",
    "tokens": "tokens",
}


def add_commands(nouns: Nouns) -> None:
    """Add `building` and its commands to the parser."""
    noun = Noun(nouns, "building", "the buildings whose websites send leads")
    add = noun.command("add", _add, "register a building and issue its token", may_make_database=True)
    _add_fields(add, name_required=True)
    add.add_argument("--token", help="the token it has already (a new one if not given)")
    noun.command("list", _list, "list the registered buildings")
    for name, run, help in (
        ("show", _show, "show a building"),
        ("update", _update, "change what the options name; an empty text clears it"),
        ("remove", _remove, "take a building off the list; its leads stay"),
    ):
        command = noun.command(name, run, help)
        command.add_argument("id", type=at_least_one, metavar="ID")
        if run is _update:
            _add_fields(command, name_required=False)


def _add_fields(parser: argparse.ArgumentParser, name_required: bool) -> None:
    for field, (option, help) in FIELDS.items():
        needed = name_required and field == "name"
        parser.add_argument(option, dest=field, metavar=option[2:].upper(), help=help, required=needed)


def _given(args: argparse.Namespace) -> dict[str, str | None]:
    return {field: getattr(args, field) for field in FIELDS if getattr(args, field) is not None}


def _add(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        building, token = add_building(_given(args), args.token, Clock().now())
    answer(
        {**building_as_dict(building, [token]), "token": token},
        args.json,
        f"Building {building.id} was added: {building.name}",
        f"Its token: {token}",
        f'Paste it into its website, to be sent as "token" to {settings.public_url}/api/v1/website_leads',
        f"Its leads are taken by the server that runs on {settings.data_dir.absolute()}.",
    )
    _warn_of_what_is_missing(building)


def _warn_of_what_is_missing(building: Building) -> None:
    change = f"'building update {building.id}"
    if not building.agent_email:
        note(f"note: without an agent e-mail nobody is told of its leads; {change} --agent-email …' sets it")
    if not building.website_url:
        note(f"note: without a website browsers can't send its leads; {change} --website https://…' sets it")


def _list(args: argparse.Namespace, settings: Settings) -> None:
    rows = list_buildings(Clock().now())
    list_rows(rows, COLUMNS, args.json, "There are no buildings yet; 'building add' registers one.")


def _show(args: argparse.Namespace, settings: Settings) -> None:
    building = find_building(args.id)
    show_record(building_as_dict(building, working_tokens(building, Clock().now())), args.json)


def _update(args: argparse.Namespace, settings: Settings) -> None:
    fields = _given(args)
    if not fields:
        args.refuse_usage(f"say what to change: {', '.join(option for option, _ in FIELDS.values())}")
    with transaction():
        building = update_building(find_building(args.id), fields)
    record = building_as_dict(building, working_tokens(building, Clock().now()))
    answer(record, args.json, f"Building {building.id} was changed: {building.name}")
    _warn_of_what_is_missing(building)


def _remove(args: argparse.Namespace, settings: Settings) -> None:
    with transaction():
        building = find_building(args.id)
        remove_building(building, Clock().now())
    answer(
        building_as_dict(building),
        args.json,
        f"Building {building.id} was removed: {building.name}",
        "Its tokens and website work no more; its leads stay.",
    )
