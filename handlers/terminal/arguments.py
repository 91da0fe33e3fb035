"""Owns the grammar of the command line: nouns, their commands, and the kinds of values these take."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ActionError
from models.settings import Settings, about, names
from models.storage.sqlite.connection import FILE_NAME, close_database
from models.storage.sqlite.folder import has_database, open_database
from models.storage.sqlite.locks import command_lock, lock_holder

if TYPE_CHECKING:
    Nouns = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Nouns = object

Run = Callable[[argparse.Namespace, Settings], int | None]

LARGEST_ID = 2**63 - 1
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
DEFAULT_LIMIT = 50
FLAG = "flag_"  # before the name of a setting in the parsed arguments, apart from a command's own


class Noun:
    """What a group of commands is about, such as `building`."""

    def __init__(self, nouns: Nouns, name: str, help: str) -> None:
        parser = nouns.add_parser(name, help=help, description=help, allow_abbrev=False)
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        self, name: str, run: Run, help: str, may_make_database: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command that runs on the open database; answers with its parser, for its own arguments.

        Only one that may make a database does so: a listing of a wrong folder had better say so.
        """
        parser = self._commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        add_settings(parser, "data_dir")
        add_json(parser)
        parser.set_defaults(run=_on_database(run, may_make_database), refuse_usage=parser.error)
        return parser

    def plain_command(self, name: str, run: Run, help: str, *settings: str) -> argparse.ArgumentParser:
        """Add a command without the open database, that takes these settings, or every one."""
        parser = self._commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        add_settings(parser, *settings)
        add_json(parser)
        parser.set_defaults(run=run)
        return parser


def _on_database(run: Run, may_make: bool) -> Run:
    def run_on_database(args: argparse.Namespace, settings: Settings) -> int | None:
        if not has_database(settings.data_dir) and not may_make:
            raise ActionError(f"there is no {FILE_NAME} in {settings.data_dir}; give --data-dir")
        with command_lock(settings.data_dir):
            alone = lock_holder(settings.data_dir) is None
            open_database(settings.data_dir)
            try:
                return run(args, settings)
            finally:
                # Beside a server the journal is the server's.
                close_database(checkpoint=alone and lock_holder(settings.data_dir) is None)

    return run_on_database


def add_settings(parser: argparse.ArgumentParser, *only: str) -> None:
    """Let the command take these settings, or all of them, as flags, and --config."""
    group = parser.add_argument_group("settings")
    for name in only or names():
        known = about(name)
        variable = f"LEADS_{name.upper()}"
        text = f"{known['help']}: {known['takes']} ({variable}; default: {known['default'] or 'none'})"
        if known["secret"]:
            text += f"; anyone on this machine can see a flag, so rather set {variable}"
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=FLAG + name,
            metavar=name.upper(),
            help=text.replace("%", "%%"),
        )
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="a TOML file of settings (LEADS_CONFIG; default: none)"
    )


def flags_of(args: argparse.Namespace) -> dict[str, str | None]:
    """The settings that were given as flags, by name."""
    return {name: getattr(args, FLAG + name, None) for name in names()}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Let the command take --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Let the command take --limit."""
    parser.add_argument(
        "--limit",
        type=at_least_one,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="at most so many (default: %(default)s)",
    )


def at_least_one(text: str) -> int:
    """A whole number from 1 up, an id or a count, as far as the database can hold it."""
    if not re.fullmatch("[0-9]{1,19}", text) or not 1 <= int(text) <= LARGEST_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def instant(text: str) -> datetime:
    """An ISO 8601 date or date-time; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write it like 2026-11-23 or 2026-11-23T10:00-05:00"
        ) from None


def duration(text: str) -> timedelta:
    """90s, 30m, 12h or 7d."""
    form = re.fullmatch("([0-9]{1,5})([smhd])", text)
    if form is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time span; write it like 90s, 30m, 12h or 7d")
    return timedelta(**{UNITS[form[2]]: int(form[1])})
