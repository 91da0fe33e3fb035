"""The command that moves all leads between the data folder and a PostgreSQL database."""

import argparse
import signal
from pathlib import Path

from handlers.terminal.arguments import CommandContext, Nouns, add_json, add_settings
from handlers.terminal.output import note, print_result, progress
from models.database import command_storage, missing_database
from models.database_url import masked_database_url, parse_database_url
from models.errors import Conflict, NotFound
from models.moving import Moved, move_to_folder, move_to_postgres, undo_move
from models.settings import Settings
from models.storage import DatabaseUnusable, StorageError

HELP = "move all leads from the data folder to PostgreSQL, or back"
DESCRIPTION = """\
Move all leads from the data folder to PostgreSQL, or back. Stop all servers first.

  from the data folder to PostgreSQL:  move --data-dir ./data --to postgresql://user@host/leads
  from PostgreSQL to a new folder:     move --database-url postgresql://user@host/leads --to ./folder

--to names the new place, which must be empty. The source is the place that the servers used until
now: the database of LEADS_DATABASE_URL if that is set, else the data folder. Each row is copied and
compared. The source keeps its rows, and no server starts there any more. In both places all mail is
paused: say 'outbox resume' in the new one. Interrupted at any moment, the command leaves the new place
empty. --undo, given with the settings of the source, has it used again instead of the new place.
"""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOLDER_BEGINS = ("./", "../", "/")
# What a mistyped URL has, which may hold a password: it is no folder unless it begins like one.
OF_A_URL = ":@="


def add_command(nouns: Nouns) -> None:
    """Add `move` to the parser."""
    parser = nouns.add_parser(
        "move",
        help=HELP,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--to",
        type=_place,
        metavar="PLACE",
        help="postgresql://user@host/database, or a folder. Anyone on this machine can see a flag, so leave "
        "the password to PGPASSWORD or ~/.pgpass",
    )
    what.add_argument(
        "--undo", action="store_true", help="use the source again; what the new place took is not in it"
    )
    add_settings(parser, "data_dir", "database_url", "secret")
    add_json(parser)
    parser.set_defaults(run=_run)


def _place(text: str) -> str | Path:
    """Parse a PostgreSQL URL, or a folder. No message has the text, which may hold a password."""
    text = text.strip()
    if text.startswith(FOLDER_BEGINS) and not text.startswith("//"):
        return Path(text)
    if "://" in text:
        try:
            return parse_database_url(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"the URL can't be used: {error}") from None
    if not text or text.startswith("//") or text.lower().startswith("postgres") or set(text) & set(OF_A_URL):
        raise argparse.ArgumentTypeError(
            "it takes postgresql://user@host/database, or a folder; write one of such a name as ./NAME"
        )
    return Path(text)


def _run(context: CommandContext) -> None:
    if context.args.undo:
        _undo(context)
    else:
        _interrupt_at_each_signal()
        _move(context)


def _interrupt_at_each_signal() -> None:
    """Have each signal that ends a process do what Ctrl-C does, once: the copy so far is removed."""

    def interrupt(number: int, frame: object) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # another one would end the removal
        raise KeyboardInterrupt

    handled = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]  # as nohup has it
    for each in handled:
        signal.signal(each, interrupt)


def _move(context: CommandContext) -> None:
    settings, place, now = context.settings, context.args.to, context.clock.now()
    if isinstance(place, Path):
        _refuse_folder_to_folder(settings)
        moved = move_to_folder(settings, place, context.actor, now, progress)
        steps = _steps_in_folder(settings, moved)
    else:
        _refuse_postgres_to_postgres(settings)
        try:
            moved = move_to_postgres(settings, place, context.actor, now, progress)
        except (DatabaseUnusable, StorageError) as error:  # that tells the operator to correct the URL
            raise type(error)(str(error).replace("LEADS_DATABASE_URL", "--to")) from error
        steps = _steps_on_postgres(settings, moved)
    print_result(
        _as_dict(moved),
        context.args.json,
        f"All is in {moved.target}: {moved.tables['lead'].rows:,} leads, {moved.rows:,} rows in "
        f"{len(moved.tables)} tables, each compared. That took {moved.seconds:.1f} s, "
        f"{moved.rows / moved.seconds:,.0f} rows a second.",
        f"{moved.source} keeps its rows. Its outbox is paused, and no server starts there any more.",
        "Do this now:",
        *(f"{number}. {step}" for number, step in enumerate(steps, start=1)),
    )
    if not moved.has_secret:
        note("note: no secret was found, so a retry of a lead from before now makes a second one")


def _undo(context: CommandContext) -> None:
    if missing := missing_database(context.settings):
        raise NotFound(missing, "no_database")
    with command_storage(context.settings) as storage:
        place = storage.write(undo_move, context.actor, storage.clock.now())
    print_result(
        {"undone": place},
        context.args.json,
        "This place is the one to use again. It has no lead that the other one took.",
        f"Start no server on {place} any more, and delete what is there: both would give out the same ids.",
        f"Then start the server here. {RESUME}",
    )


def _refuse_folder_to_folder(settings: Settings) -> None:
    if not settings.database_url:
        raise Conflict(
            f"both places are folders: LEADS_DATABASE_URL is not set, so the source is {settings.data_dir}; "
            "set it to the PostgreSQL to move from, or give --to postgresql://… to move there"
        )


def _refuse_postgres_to_postgres(settings: Settings) -> None:
    if settings.database_url:
        raise Conflict(
            f"both places are PostgreSQL: {settings.origin('database_url')} says that the source is "
            f"{masked_database_url(settings.database_url)}; to move the data folder {settings.data_dir}, "
            "leave it out or give --database-url ''"
        )


def _as_dict(moved: Moved) -> dict[str, object]:
    tables = {
        name: {"rows": content.rows, "sha256": content.digest} for name, content in moved.tables.items()
    }
    return {"from": moved.source, "to": moved.target, "seconds": round(moved.seconds, 3), "tables": tables}


RESUME = (
    "Look at 'outbox list --state pending', take out with 'outbox skip' what is not to leave, then say "
    "'outbox resume email' and 'outbox resume june_homes'."
)


def _steps_on_postgres(settings: Settings, moved: Moved) -> list[str]:
    if settings.secret:
        secret = "LEADS_SECRET as it is"
    else:
        secret = f"LEADS_SECRET to what 'secret show --data-dir {settings.data_dir}' prints"
    both = "LEADS_DATABASE_URL to that database" + (f", and {secret}" if moved.has_secret else "")
    return [f"For each server and command set {both}.", "Start the servers.", RESUME]


def _steps_in_folder(settings: Settings, moved: Moved) -> list[str]:
    return [
        f"Remove LEADS_DATABASE_URL, and set LEADS_DATA_DIR to {moved.target}.",
        "Start one server there."
        + (" It has the secret in a file, so LEADS_SECRET may go." if moved.has_secret else ""),
        RESUME,
    ]
