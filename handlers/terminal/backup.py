"""The commands about backups of the data folder's database. For a PostgreSQL they name its own programs."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from handlers.terminal.arguments import CommandContext, Noun, Nouns, Run
from handlers.terminal.output import Columns, list_rows, moment, note, print_result, progress
from models.database_url import without_password
from models.errors import Conflict
from models.outbox.actions import pause_after_restore
from models.settings import Settings
from models.storage.sqlite.backup import Backup, create_backup, verify_backup
from models.storage.sqlite.backup_files import list_backups, new_path
from models.storage.sqlite.restore import restore_backup

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


SETTINGS = ("data_dir", "backup_dir", "database_url")


def _of_files(run: Callable[[CommandContext], None], instead: Callable[[CommandContext], str]) -> Run:
    """Return the command, which is refused if the database is a PostgreSQL. instead: says what to do then."""

    def run_on_files(context: CommandContext) -> None:
        if context.settings.database_url:
            raise Conflict(
                f"{context.settings.origin('database_url')} names a PostgreSQL: {instead(context)}"
            )
        run(context)

    return run_on_files


def _pg_dump(context: CommandContext) -> str:
    output = context.args.output or "leads.dump"
    command = f"pg_dump --format=custom --file={shlex.quote(str(output))} {_quoted_url(context)}"
    return f"run {command}; for one to any moment use pgBackRest, or archive its WAL"


def _pgbackrest(context: CommandContext) -> str:
    return "its backups are where pg_dump wrote them; those of pgBackRest are listed by pgbackrest info"


def _pg_restore_list(context: CommandContext) -> str:
    file = shlex.quote(str(context.args.file))
    return f"run pg_restore --list {file}, or pgbackrest verify; to be sure, restore it into a new database"


def _pg_restore(context: CommandContext) -> str:
    file = shlex.quote(str(context.args.file))
    command = f"pg_restore --exit-on-error --no-owner --dbname={_quoted_url(context)} {file}"
    return f"name a new, empty database there, run {command}, and 'outbox pause' before a server starts"


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
        "Nothing leaves until you say so, since what waits may have left already:",
        "look at 'outbox list --state pending', take out with 'outbox skip' what is not to leave,",
        "then say 'outbox resume email' and 'outbox resume june_homes'.",
        "Customers who were erased after the backup was made are back: erase them again.",
    )
    _warn_of_no_checksum(restored.backup)
    if not (restored.has_secret or settings.secret):
        note("note: there was no usable .secret beside it, so retries of forms before now make new leads")
