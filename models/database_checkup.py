"""Owns the look at the database from outside: is it whole, which schema, what its outbox waits for.

Nothing is made or changed by it, not even a journal beside a database that nobody has open.
"""

import os
from collections.abc import Callable, Collection
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import apsw

from models.backup import open_for_reading
from models.database import (
    BUSY_TIMEOUT_SECONDS,
    FILE_NAME,
    RESTORING,
    as_text,
    causes,
    size_with_journal,
    storage_reason,
)
from models.destination import Destination, why_waiting
from models.finding import DATABASE, OK, OUTBOX, PROBLEM, SCHEMA, UNTOLD, WARNING, Finding, in_bytes, span
from models.folder_lock import lock_holder
from models.migrations import NEWEST, schema_of
from models.outbox import FAILED, PENDING

Answer = TypeVar("Answer")

OF_LATE = timedelta(days=7)

RESTORE = "stop the server, keep the folder as it is, see 'backup list', then 'backup restore FILE'"


def check_database(path: Path) -> Finding:
    """Whether the server can work with this database: there, ours, whole. Raises OSError."""
    folder = path.parent
    if path.with_name(RESTORING).exists():
        holder = lock_holder(folder)
        if holder is not None:
            found, remedy = f"a restore is under way (process {holder})", "let it come to its end"
        else:
            found, remedy = "a restore was begun and not finished", "run 'backup restore' again"
        return Finding(DATABASE, PROBLEM, f"{folder}: {found}", remedy)
    if folder.exists() and not folder.is_dir():
        return Finding(DATABASE, PROBLEM, f"{folder} is no folder", "give --data-dir the folder of the data")
    if not path.exists():
        if path.with_name(FILE_NAME + "-wal").exists():
            found = f"{path} is missing but its -wal file is there"
            return Finding(DATABASE, PROBLEM, found, "put both back together, or restore a backup")
        remedy = "the first 'serve' or 'building add' makes it; if there should be one, give --data-dir"
        return Finding(DATABASE, WARNING, f"there is none yet in {folder}", remedy)
    if not (path.is_file() and os.access(path, os.R_OK | os.W_OK) and os.access(folder, os.W_OK | os.X_OK)):
        return Finding(
            DATABASE,
            PROBLEM,
            f"{path} and its folder can't be read and written",
            "check their owner and mode, and that the disk is not read-only; "
            "run this as the user that the server runs as",
        )
    if path.with_name(FILE_NAME + "-journal").exists():
        found = f"{path} was being made when something cut that off"
        return Finding(DATABASE, WARNING, found, "the next command or start undoes it, and begins anew")
    holder = lock_holder(folder)
    try:
        trouble = ask(path, _trouble)
    except apsw.Error as error:
        if any(isinstance(cause, apsw.NotADBError | apsw.CorruptError) for cause in causes(error)):
            trouble = f"is corrupt: {error}", RESTORE
        else:
            remedy = "look for what has it open, and at what the system's log says of the disk"
            trouble = f"can't be read: {storage_reason(error)}", remedy
    if trouble is not None:
        return Finding(DATABASE, PROBLEM, f"{path} {trouble[0]}", trouble[1])
    runs = "no server runs on it" if holder is None else f"a server runs on it (process {holder})"
    return Finding(DATABASE, OK, f"{path} is whole, {in_bytes(size_with_journal(path))}; {runs}")


def _trouble(connection: apsw.Connection) -> tuple[str, str] | None:
    """What is wrong with the file as a database, and what to do; None if nothing is wrong."""
    if schema_of(connection) is None:
        return "is some other program's database", "give another LEADS_DATA_DIR"
    verdict = connection.execute("PRAGMA quick_check(1)").get
    if verdict != "ok":
        return f"is corrupt: {' '.join(str(verdict).split())}", RESTORE
    if connection.execute("PRAGMA foreign_key_check").get:
        return "is damaged: rows in it belong to rows that are not there", RESTORE
    return None


def check_schema(connection: apsw.Connection) -> Finding:
    """Whether this program and the database's schema go together."""
    version = _version(connection)
    if version > NEWEST:
        found = f"{version}, newer than this program's {NEWEST}"
        remedy = "run the newer version of this program, or restore a backup made before the upgrade"
        return Finding(SCHEMA, PROBLEM, found, remedy)
    if version == 0:
        return Finding(SCHEMA, WARNING, "the database is empty", "the next start of the server fills it in")
    if version < NEWEST:
        remedy = "the next start of the server upgrades it, with a backup before"
        return Finding(SCHEMA, WARNING, f"{version}, older than this program's {NEWEST}", remedy)
    return Finding(SCHEMA, OK, f"{version}, as this program's")


def newest_lead_at(connection: apsw.Connection) -> datetime | None:
    """When the last lead came; None if there is none, or nobody can say."""
    if not 0 < _version(connection) <= NEWEST:
        return None
    # By its id: one that came while the clock was ahead is not held against it for ever.
    created_at = connection.execute("SELECT created_at FROM lead ORDER BY id DESC LIMIT 1").get
    return None if created_at is None else datetime.fromisoformat(created_at)


def in_use_since(connection: apsw.Connection) -> datetime | None:
    """When its first building was registered, or its first lead came; None if there is neither, or nobody can
    say.
    """
    if not 0 < _version(connection) <= NEWEST:
        return None
    firsts = "SELECT min(created_at) FROM building UNION SELECT created_at FROM lead WHERE id = 1"
    return min((datetime.fromisoformat(at) for (at,) in connection.execute(firsts) if at), default=None)


def check_outbox(connection: apsw.Connection, configured: Collection[str], now: datetime) -> list[Finding]:
    """What has been given up, and what waits for somebody to do something. configured: the kinds that the
    server, with the settings it is given, has a destination for.
    """
    version = _version(connection)
    if version > NEWEST:
        return [Finding(OUTBOX, WARNING, "not known, as the schema is a newer one", "see 'schema'")]
    if version == 0:
        return [Finding(OUTBOX, OK, "there is none yet")]
    findings, all_waiting = [], 0
    for place in _destinations(connection):
        place.configured = place.configured or place.kind in configured
        kind, because = place.kind, why_waiting(place, now)
        waiting, failed = (_count(connection, kind, state) for state in (PENDING, FAILED))
        all_waiting += waiting
        if waiting and because is not None:
            if place.paused:
                remedy = (
                    f"look at 'outbox list --state pending --kind {kind}', then say 'outbox resume {kind}'"
                )
            elif not place.configured:
                remedy = "set it, and start the server again"
            else:
                remedy = f"mend what that names; 'outbox resume {kind}' then has it tried at once"
            findings.append(Finding(OUTBOX, WARNING, f"{kind}: {waiting} waiting, {because}", remedy))
        if failed:
            remedy = (
                f"see why in 'outbox list --state failed --kind {kind}', then 'outbox retry' or 'skip' them"
            )
            findings.append(Finding(OUTBOX, WARNING, f"{kind}: {failed} given up", remedy))
    return findings or [Finding(OUTBOX, OK, f"{all_waiting} waiting, nothing held, nothing given up")]


def check_untold(connection: apsw.Connection, now: datetime) -> list[Finding]:
    """Which leads of late nobody was told of, for want of a building or of its agent's address."""
    version = _version(connection)
    if not 0 < version <= NEWEST:
        return [Finding(UNTOLD, OK, "there are no leads yet")]
    skipped = (
        "SELECT count(*) FROM lead LEFT JOIN building ON building.id = building_id WHERE lead.created_at > ?"
        " AND EXISTS (SELECT 1 FROM delivery"
        " WHERE lead_id = lead.id AND kind = 'email' AND state = 'skipped')"
    )
    since = as_text(now - OF_LATE)
    findings = []
    if unassigned := connection.execute(f"{skipped} AND building_id IS NULL", (since,)).get:
        remedy = "see 'lead list --unassigned', then 'lead assign' them; is the website's token right?"
        found = f"{unassigned} of the last {span(OF_LATE)} matched no building"
        findings.append(Finding(UNTOLD, WARNING, found, remedy))
    if mute := connection.execute(f"{skipped} AND building.agent_email IS NULL", (since,)).get - unassigned:
        found = f"{mute} of the last {span(OF_LATE)} are of buildings without an agent e-mail"
        remedy = "see 'building list', set it with 'building update', then 'outbox retry' their mail"
        findings.append(Finding(UNTOLD, WARNING, found, remedy))
    held = "SELECT count(DISTINCT lead_id) FROM delivery WHERE state = 'held'"
    if waiting := connection.execute(held).get:
        remedy = "see 'lead list --suspected', then 'lead release' those that are none, or 'outbox skip' them"
        findings.append(Finding(UNTOLD, WARNING, f"{waiting} are held as they look like spam", remedy))
    return findings or [Finding(UNTOLD, OK, f"none in the last {span(OF_LATE)}")]


def _destinations(connection: apsw.Connection) -> list[Destination]:
    # Not through Peewee's connection, which would set up the database to be written to; and every column that
    # there is, as an older schema has not all of them.
    cursor = connection.execute("SELECT * FROM destination ORDER BY kind")
    places = [Destination(**dict(zip(_names(cursor), row, strict=True))) for row in cursor]
    for place in places:
        place.hold_until = Destination.hold_until.python_value(place.hold_until)
    return places


def _names(cursor: apsw.Cursor) -> list[str]:
    return [column[0] for column in cursor.get_description()]


def _count(connection: apsw.Connection, kind: str, state: str) -> int:
    count = "SELECT count(*) FROM delivery WHERE kind = ? AND state = ?"
    return int(connection.execute(count, (kind, state)).get)


def _version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))


def ask(path: Path, question: Callable[[apsw.Connection], Answer]) -> Answer:
    """The database's answer to a question that only reads. Raises apsw.Error."""
    # Opened in the common way, a database at rest gets a journal that stays behind. Opened as one that never
    # changes it gets none, but then nobody may write to it. If somebody did, it is asked again, as in use.
    at_rest = _at_rest(path)
    if at_rest is not None:
        try:
            with closing(open_for_reading(path, immutable=True)) as connection:
                answer = question(connection)
            if _at_rest(path) == at_rest:
                return answer
        except apsw.Error:
            if _at_rest(path) == at_rest:
                raise
    with closing(open_for_reading(path)) as connection:
        connection.set_busy_timeout(int(1000 * BUSY_TIMEOUT_SECONDS))
        return question(connection)


def _at_rest(path: Path) -> tuple[int, ...] | None:
    """What a write to the file would change; None if somebody has it open, or a crash left a journal."""
    if path.with_name(FILE_NAME + "-wal").exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
