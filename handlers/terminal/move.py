"""The command that moves all leads between the data folder and a PostgreSQL database."""

import argparse
from pathlib import Path

from handlers.terminal.arguments import CommandContext, Nouns, add_json, add_settings
from handlers.terminal.output import note, print_result, progress
from models.database_url import masked_database_url, parse_database_url
from models.errors import Conflict
from models.moving import Moved, move_to_folder, move_to_postgres
from models.settings import Settings
from models.storage import DatabaseUnusable

HELP = "move all leads from the data folder to PostgreSQL, or back"
DESCRIPTION = """\
Move all leads from the data folder to PostgreSQL, or back. Stop all servers first.

  from the data folder to PostgreSQL:  move --data-dir ./data --to postgresql://user@host/leads
  from PostgreSQL to a new folder:     move --database-url postgresql://user@host/leads --to ./folder

--to names the new place, which must be empty. The source is the place that the servers used until
now: the database of LEADS_DATABASE_URL if that is set, else the data folder. Each row is copied and
compared. The source keeps its rows. In both places all mail is paused: say 'outbox resume' in the new
one. Interrupted at any moment, the command leaves the new place empty.
"""


def add_command(nouns: Nouns) -> None:
    """Add `move` to the parser."""
    parser = nouns.add_parser(
        "move",
        help=HELP,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--to",
        type=_place,
        required=True,
        metavar="PLACE",
        help="postgresql://user@host/database, or a folder. Anyone on this machine can see a flag, so leave "
        "the password to PGPASSWORD or ~/.pgpass",
    )
    add_settings(parser, "data_dir", "database_url", "secret")
    add_json(parser)
    parser.set_defaults(run=_move)


def _place(text: str) -> str | Path:
    """Parse a PostgreSQL URL, or a folder."""
    if "://" not in text:
        if not text.strip():
            raise argparse.ArgumentTypeError("it takes postgresql://user@host/database, or a folder")
        return Path(text)
    try:
        return parse_database_url(text.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the URL can't be used: {error}") from None


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
        except DatabaseUnusable as error:  # that tells the operator to correct the URL
            raise DatabaseUnusable(str(error).replace("LEADS_DATABASE_URL", "--to")) from error
        steps = _steps_on_postgres(settings, moved)
    print_result(
        _as_dict(moved),
        context.args.json,
        f"All is in {moved.target}: {moved.tables['lead'].rows:,} leads, {moved.rows:,} rows in "
        f"{len(moved.tables)} tables, each compared. That took {moved.seconds:.1f} s, "
        f"{moved.rows / moved.seconds:,.0f} rows a second.",
        f"{moved.source} keeps its rows, and its outbox is paused. Start no server there any more.",
        "Do this now:",
        *(f"{number}. {step}" for number, step in enumerate(steps, start=1)),
    )
    if not moved.has_secret:
        note("note: no secret was found, so a retry of a lead from before now makes a second one")


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
