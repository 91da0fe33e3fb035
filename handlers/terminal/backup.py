"""The commands about backups of the data folder's database. For a PostgreSQL they name its own programs."""

import shlex
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from handlers.terminal.arguments import REFUSED, CommandContext, DatabaseContext, Noun, Nouns, Run
from handlers.terminal.output import Columns, list_rows, moment, note, print_result, progress
from models.audit import Actor
from models.clock import utc_text
from models.database import move_ids_on
from models.database_url import with_database, without_password
from models.errors import Conflict
from models.outbox.actions import pause_after_restore
from models.settings import Settings
from models.storage.sqlite.backup import Backup, create_backup, verify_backup
from models.storage.sqlite.backup_files import list_backups, new_path
from models.storage.sqlite.restore import restore_backup

AFTER_RESTORE = (
    "Nothing leaves until you say so, since what waits may have left already:",
    "look at 'outbox list --state pending', take out with 'outbox skip' what is not to leave,",
    "then say 'outbox resume email' and 'outbox resume june_homes'.",
    "Customers who were erased after the backup was made are back: erase them again.",
)
SQLITE_HEADER = b"SQLite format 3\0"
COLUMNS: Columns = {"made": moment("made_at"), "why": "why", "bytes": "bytes", "file": "path"}


def add_commands(nouns: Nouns) -> None:
    """Add `backup` and its commands to the parser."""
    noun = Noun(nouns, "backup", "create, list, verify and restore backups")
    create = noun.plain_command(
        "create",
        _of_files(_create, _pg_dump),
        "create and verify a backup; a running server keeps taking leads",
        *SETTINGS,
    )
    create.add_argument("--output", type=Path, metavar="FILE", help="a new file (one in the backup folder)")
    noun.plain_command("list", _of_files(_list, _pgbackrest), "list backups, the newest first", *SETTINGS)
    verify = noun.plain_command(
        "verify", _of_files(_verify, _pg_restore_list), "verify that a backup is whole", *SETTINGS
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    restore = noun.plain_command(
        "restore", _of_files(_restore, _pg_restore), "restore a backup; stop the server first", *SETTINGS
    )
    restore.add_argument("file", type=Path, metavar="FILE")
    noun.command(
        "restored",
        _restored,
        "pause the mail and give no id twice, once PostgreSQL's own programs have restored the database",
    )


SETTINGS = ("data_dir", "backup_dir", "database_url")


def _of_files(run: Run, instead: Callable[[CommandContext], list[str]]) -> Run:
    """Return the command, which is refused if the database is a PostgreSQL.

    instead: returns what to do then, in lines, so that a command can be copied.
    """

    def run_on_files(context: CommandContext) -> int | None:
        if not context.settings.database_url:
            return run(context)
        reason, *others = instead(context)
        note(f"leads: {context.settings.origin('database_url')} names a PostgreSQL: {reason}")
        for line in others:
            note(line)
        return REFUSED

    return run_on_files


def _pg_dump(context: CommandContext) -> list[str]:
    output = shlex.quote(str(context.args.output or "leads.dump"))
    return [
        "its own programs make its backups. Run",
        f"    pg_dump --format=custom --file={output} {_quoted_url(context)}",
        "after 'umask 077', as it holds renters' data, and keep LEADS_SECRET elsewhere. "
        "To be able to restore any moment, use pgBackRest.",
    ]


def _pgbackrest(context: CommandContext) -> list[str]:
    return ["its backups are where pg_dump wrote them; those of pgBackRest are listed by pgbackrest info"]


def _pg_restore_list(context: CommandContext) -> list[str]:
    file = shlex.quote(str(context.args.file))
    return [f"run pg_restore --list {file}, or pgbackrest verify; to be sure, restore it into a new database"]


def _pg_restore(context: CommandContext) -> list[str]:
    file = shlex.quote(str(context.args.file))
    if _is_of_folder(context.args.file):
        return [f"{file} is a backup of a data folder. Restore it without that setting, then 'move --to' it"]
    new = shlex.quote(with_database(without_password(context.settings.database_url), "restored"))
    return [
        "make a new, empty database, such as 'restored', and run",
        f"    pg_restore --exit-on-error --no-owner --dbname={new} {file}",
        "Then name it in that setting, and run 'backup restored' before a server starts.",
    ]


def _is_of_folder(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(SQLITE_HEADER)) == SQLITE_HEADER
    except OSError:
        return False


def _quoted_url(context: CommandContext) -> str:
    return shlex.quote(without_password(context.settings.database_url))


def _create(context: CommandContext) -> None:
    args, settings = context.args, context.settings
    path = args.output or new_path(settings.data_dir, settings.backup_dir, "manual", context.clock.now())
    backup = create_backup(settings.data_dir, path, progress)
    print_result(
        backup.as_dict(),
        args.json,
        f"Backed up to {backup.path}, and read back: {backup.leads} leads, {backup.size / 1e6:.1f} MB.",
        "It holds renters' data; keep a copy of it, and of its .sha256 and .secret, on another machine.",
    )


def _list(context: CommandContext) -> None:
    args, settings = context.args, context.settings
    rows = [backup.as_dict() for backup in list_backups(settings.backup_dir)]
    nothing = f"There are no backups in {settings.backup_dir}; 'backup create' makes one."
    list_rows(rows, COLUMNS, args.json, nothing)


def _verify(context: CommandContext) -> None:
    args, settings = context.args, context.settings
    backup = verify_backup(_found(args.file, settings))
    whole = "is whole" if backup.checksum is not None else "can be read"
    print_result(
        backup.as_dict(),
        args.json,
        f"{backup.path} {whole}: {backup.leads} leads, the newest of {backup.newest_lead_at or 'none'}.",
    )
    _warn_of_no_checksum(backup)


def _found(file: Path, settings: Settings) -> Path:
    """Return the file as given, or the one of that name in the backup folder."""
    in_folder = settings.backup_dir / file
    return in_folder if not file.exists() and in_folder.exists() else file


def _warn_of_no_checksum(backup: Backup) -> None:
    if backup.checksum is None:
        note(f"note: there is no {backup.path.name}.sha256 beside it, so a changed letter would not be seen")


def _count(leads: int | None) -> str:
    return "" if leads is None else f", with {leads} leads,"


def _restore(context: CommandContext) -> None:
    args, settings = context.args, context.settings
    restored = restore_backup(
        settings.data_dir,
        _found(args.file, settings),
        context.clock.now(),
        progress,
        partial(pause_after_restore, context.actor),
    )
    replaced = restored.replaced and str(restored.replaced)
    print_result(
        {**restored.backup.as_dict(), "replaced": replaced, "leads_replaced": restored.leads_replaced},
        args.json,
        f"{restored.backup.path} is in place: {restored.backup.leads} leads, "
        f"the newest of {restored.backup.newest_lead_at or 'none'}.",
        f"What was there{_count(restored.leads_replaced)} is kept in {replaced}."
        if replaced
        else "There was nothing to replace.",
        *AFTER_RESTORE,
    )
    _warn_of_no_checksum(restored.backup)
    if not (restored.has_secret or settings.secret):
        note("note: there was no usable .secret beside it, so retries of forms before now make new leads")


def _restored(context: DatabaseContext) -> None:
    if not context.settings.database_url:
        raise Conflict("this is for a PostgreSQL; 'backup restore' does it for the data folder")
    now = context.clock.now()
    context.storage.write(_prepare_restored, context.actor, now)
    print_result(
        {"noted_at": utc_text(now)},
        context.args.json,
        "New leads get ids that none had before.",
        *AFTER_RESTORE,
    )


def _prepare_restored(actor: Actor, now: datetime) -> None:
    move_ids_on()
    pause_after_restore(actor, now)
