"""The grammar of the command line: nouns, their commands, and the types of values that these take."""

import argparse
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.terminal.unmoved import UnmovedStorage
from models.audit import COMMAND_LINE, Actor
from models.clock import Clock
from models.database import command_storage, missing_database
from models.errors import ActionError, NotFound
from models.settings import Settings, setting_metadata, setting_names
from models.storage import BlockingStorage, StorageError

if TYPE_CHECKING:
    Nouns = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Nouns = object

LARGEST_ID = 2**63 - 1
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
DEFAULT_LIMIT = 50
FLAG = "flag_"  # prefix of a setting's name in the parsed arguments, to tell it from a command's own argument


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The arguments, settings, clock and actor that a command runs with."""

    args: argparse.Namespace
    settings: Settings
    clock: Clock
    actor: Actor


@dataclass(frozen=True, slots=True)
class DatabaseContext(CommandContext):
    """The same on the open database. Each action is one `storage.write`, each query one `storage.read`."""

    storage: BlockingStorage


OK, REFUSED = 0, 1  # statuses that a command exits with

Run = Callable[[CommandContext], int | None]
DatabaseRun = Callable[[DatabaseContext], int | None]


def unix_user() -> Actor:
    """Return the actor of a command: the Unix user that runs it."""
    user_id = os.getuid()
    try:
        return Actor(COMMAND_LINE, pwd.getpwuid(user_id).pw_name)
    except KeyError:  # a user without an entry, as in a container
        return Actor(COMMAND_LINE, str(user_id))


class Noun:
    """A group of commands on one subject, such as `building`."""

    def __init__(self, nouns: Nouns, name: str, help: str) -> None:
        parser = nouns.add_parser(name, help=help, description=help, allow_abbrev=False)
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        self,
        name: str,
        run: DatabaseRun,
        help: str,
        creates_database: bool = False,
        writes_to_moved: bool = False,
    ) -> argparse.ArgumentParser:
        """Add a command that runs on the open database. Return its parser, for its own arguments.

        creates_database: a missing database is created; otherwise the command is refused. writes_to_moved:
        the command may also change a database whose leads were moved away.
        """
        parser = self._commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        add_settings(parser, "data_dir", "database_url")
        add_json(parser)
        on_database = _on_database(run, creates_database, writes_to_moved)
        parser.set_defaults(run=on_database, refuse_usage=parser.error)
        return parser

    def plain_command(self, name: str, run: Run, help: str, *settings: str) -> argparse.ArgumentParser:
        """Add a command without the open database. settings: those that it takes; none for all."""
        parser = self._commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        add_settings(parser, *settings)
        add_json(parser)
        parser.set_defaults(run=run)
        return parser


def _on_database(run: DatabaseRun, creates_database: bool, writes_to_moved: bool) -> Run:
    def run_on_database(context: CommandContext) -> int | None:
        if not creates_database and (missing := missing_database(context.settings)):
            raise NotFound(missing, "no_database")
        with command_storage(context.settings) as opened:
            storage = opened if writes_to_moved else UnmovedStorage(opened)
            try:
                return run(
                    DatabaseContext(context.args, context.settings, storage.clock, context.actor, storage)
                )
            except StorageError as error:
                if not storage.has_written:
                    raise
                raise ActionError(f"the change was made, but then the database failed: {error}") from error

    return run_on_database


def add_settings(parser: argparse.ArgumentParser, *only: str) -> None:
    """Let the command take these settings as flags, or all settings if none is given; and --config."""
    group = parser.add_argument_group("settings")
    for name in only or setting_names():
        known = setting_metadata(name)
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
    """Return the settings that were given as flags, by name; None for the others."""
    return {name: getattr(args, FLAG + name, None) for name in setting_names()}


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
        help="show at most N (default: %(default)s)",
    )


def at_least_one(text: str) -> int:
    """Parse a whole number from 1 up to the largest id: an id or a count."""
    if not re.fullmatch("[0-9]{1,19}", text) or not 1 <= int(text) <= LARGEST_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def instant(text: str) -> datetime:
    """Parse an ISO 8601 date or date-time; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write it like 2026-11-23 or 2026-11-23T10:00-05:00"
        ) from None


def duration(text: str) -> timedelta:
    """Parse a time span: 90s, 30m, 12h or 7d."""
    form = re.fullmatch("([0-9]{1,5})([smhd])", text)
    if form is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time span; write it like 90s, 30m, 12h or 7d")
    return timedelta(**{UNITS[form[2]]: int(form[1])})
