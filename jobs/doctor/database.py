"""The doctor's look at the database: is it whole, which schema, what does its outbox wait for?

Nothing is made or changed by it, not even a WAL beside a database that no process has open.
"""

import os
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from models.check_result import (
    DATABASE,
    OK,
    OUTBOX,
    PROBLEM,
    SCHEMA,
    UNNOTIFIED,
    WARNING,
    CheckResult,
    in_bytes,
    span,
)
from models.clock import utc_text
from models.outbox.delivery import FAILED, PENDING
from models.outbox.destination import Destination, why_waiting
from models.storage.sqlite.connection import size_with_wal
from models.storage.sqlite.inspect import (
    FOREIGN_KEY_CHECK,
    QUICK_CHECK,
    Inspection,
    Problem,
    ReadOnlyDatabase,
    inspect,
)
from models.storage.sqlite.locks import lock_holder
from models.storage.sqlite.migrations.steps import NEWEST

RECENT = timedelta(days=7)

RESTORE = "stop the server, keep the folder as it is, see 'backup list', then 'backup restore FILE'"


def check_database(path: Path) -> CheckResult:
    """Check that the server can work with this database: it is there, ours, whole. Raises OSError."""
    folder = path.parent
    inspection = inspect(path, [QUICK_CHECK, FOREIGN_KEY_CHECK])
    if inspection.creation_interrupted:
        found = f"{path} was being made when something cut that off"
        return CheckResult(DATABASE, WARNING, found, "the next command or start undoes it, and begins anew")
    if inspection.problem not in (None, Problem.NEWER):  # a newer schema is for the check of schemas
        return _problem(inspection)
    if not path.exists():
        fix = "the first 'serve' or 'building add' makes it; if there should be one, give --data-dir"
        return CheckResult(DATABASE, WARNING, f"there is none yet in {folder}", fix)
    if not os.access(folder, os.W_OK | os.X_OK):
        return _problem(Inspection(path, Problem.NO_ACCESS))
    holder = lock_holder(folder)
    runs = "no server runs on it" if holder is None else f"a server runs on it (process {holder})"
    return CheckResult(DATABASE, OK, f"{path} is whole, {in_bytes(size_with_wal(path))}; {runs}")


def _problem(inspection: Inspection) -> CheckResult:
    path, detail = inspection.path, inspection.detail
    folder = path.parent
    match inspection.problem:
        case Problem.HALF_RESTORED:
            holder = lock_holder(folder)
            if holder is not None:
                found = f"{folder}: a restore is under way (process {holder})"
                fix = "let it come to its end"
            else:
                found, fix = f"{folder}: a restore was begun and not finished", "run 'backup restore' again"
        case Problem.NOT_A_FOLDER:
            found, fix = f"{folder} is no folder", "give --data-dir the folder of the data"
        case Problem.ORPHAN_WAL:
            found = f"{path} is missing but its -wal file is there"
            fix = "put both back together, or restore a backup"
        case Problem.NO_ACCESS:
            found = f"{path} and its folder can't be read and written"
            fix = (
                "check their owner and mode, and that the disk is not read-only; "
                "run this as the user that the server runs as"
            )
        case Problem.FOREIGN:
            found, fix = f"{path} is some other program's database", "give another LEADS_DATA_DIR"
        case Problem.CORRUPT:
            found, fix = f"{path} is corrupt: {detail}", RESTORE
        case Problem.BROKEN_REFERENCES:
            found, fix = f"{path} is damaged: rows in it belong to rows that are not there", RESTORE
        case _:
            found = f"{path} can't be read: {detail}"
            fix = "look for what has it open, and at what the system's log says of the disk"
    return CheckResult(DATABASE, PROBLEM, found, fix)


def check_schema(database: ReadOnlyDatabase) -> CheckResult:
    """Whether this program and the database's schema go together."""
    version = database.schema or 0
    if version > NEWEST:
        found = f"{version}, newer than this program's {NEWEST}"
        fix = "run the newer version of this program, or restore a backup made before the upgrade"
        return CheckResult(SCHEMA, PROBLEM, found, fix)
    if version == 0:
        return CheckResult(
            SCHEMA, WARNING, "the database is empty", "the next start of the server fills it in"
        )
    if version < NEWEST:
        fix = "the next start of the server upgrades it, with a backup before"
        return CheckResult(SCHEMA, WARNING, f"{version}, older than this program's {NEWEST}", fix)
    return CheckResult(SCHEMA, OK, f"{version}, as this program's")


def newest_lead_at(database: ReadOnlyDatabase) -> datetime | None:
    """When the last lead came; None if there is none, or nobody can say."""
    if not database.has_known_schema:
        return None
    # By its id: one that came while the clock was ahead is not held against it for ever.
    created_at = database.value("SELECT created_at FROM lead ORDER BY id DESC LIMIT 1")
    return None if created_at is None else datetime.fromisoformat(created_at)


def in_use_since(database: ReadOnlyDatabase) -> datetime | None:
    """When its first building was registered, or its first lead came; None if there is neither, or nobody can
    say.
    """
    if not database.has_known_schema:
        return None
    firsts = "SELECT min(created_at) AS at FROM building UNION SELECT created_at FROM lead WHERE id = 1"
    return min(
        (datetime.fromisoformat(row["at"]) for row in database.rows(firsts) if row["at"]), default=None
    )


def check_outbox(database: ReadOnlyDatabase, configured: Collection[str], now: datetime) -> list[CheckResult]:
    """What has been given up, and what waits for somebody to do something. configured: the kinds that the
    server, with the settings it is given, has a destination for.
    """
    version = database.schema or 0
    if version > NEWEST:
        return [CheckResult(OUTBOX, WARNING, "not known, as the schema is a newer one", "see 'schema'")]
    if version == 0:
        return [CheckResult(OUTBOX, OK, "there is none yet")]
    findings, all_waiting = [], 0
    for place in _destinations(database):
        place.configured = place.configured or place.kind in configured
        kind, because = place.kind, why_waiting(place, now)
        waiting, failed = (_count(database, kind, state) for state in (PENDING, FAILED))
        all_waiting += waiting
        if waiting and because is not None:
            if place.paused:
                fix = f"look at 'outbox list --state pending --kind {kind}', then say 'outbox resume {kind}'"
            elif not place.configured:
                fix = "set it, and start the server again"
            else:
                fix = f"mend what that names; 'outbox resume {kind}' then has it tried at once"
            findings.append(CheckResult(OUTBOX, WARNING, f"{kind}: {waiting} waiting, {because}", fix))
        if failed:
            fix = f"see why in 'outbox list --state failed --kind {kind}', then 'outbox retry' or 'skip' them"
            findings.append(CheckResult(OUTBOX, WARNING, f"{kind}: {failed} given up", fix))
    return findings or [CheckResult(OUTBOX, OK, f"{all_waiting} waiting, nothing held, nothing given up")]


def check_unnotified(database: ReadOnlyDatabase, now: datetime) -> list[CheckResult]:
    """Which leads of late nobody was told of, for want of a building or of its agent's address."""
    if not database.has_known_schema:
        return [CheckResult(UNNOTIFIED, OK, "there are no leads yet")]
    skipped = (
        "SELECT count(*) FROM lead LEFT JOIN building ON building.id = building_id WHERE lead.created_at > ?"
        " AND EXISTS (SELECT 1 FROM delivery"
        " WHERE lead_id = lead.id AND kind = 'email' AND state = 'skipped')"
    )
    since = utc_text(now - RECENT)
    findings = []
    if unassigned := database.value(f"{skipped} AND building_id IS NULL", since):
        fix = "see 'lead list --unassigned', then 'lead assign' them; is the website's token right?"
        found = f"{unassigned} of the last {span(RECENT)} matched no building"
        findings.append(CheckResult(UNNOTIFIED, WARNING, found, fix))
    if mute := database.value(f"{skipped} AND building.agent_email IS NULL", since) - unassigned:
        found = f"{mute} of the last {span(RECENT)} are of buildings without an agent e-mail"
        fix = "see 'building list', set it with 'building update', then 'outbox retry' their mail"
        findings.append(CheckResult(UNNOTIFIED, WARNING, found, fix))
    # The state was 'held' until schema 5, and this check upgrades nothing.
    quarantined = "SELECT count(DISTINCT lead_id) FROM delivery WHERE state IN ('quarantined', 'held')"
    if waiting := database.value(quarantined):
        fix = "see 'lead list --suspected', then 'lead release' those that are none, or 'outbox skip' them"
        findings.append(CheckResult(UNNOTIFIED, WARNING, f"{waiting} are held as they look like spam", fix))
    return findings or [CheckResult(UNNOTIFIED, OK, f"none in the last {span(RECENT)}")]


def _destinations(database: ReadOnlyDatabase) -> list[Destination]:
    # Every column that there is, as an older schema has not all of them.
    places = [Destination(**row) for row in database.rows("SELECT * FROM destination ORDER BY kind")]
    for place in places:
        place.hold_until = Destination.hold_until.python_value(place.hold_until)
    return places


def _count(database: ReadOnlyDatabase, kind: str, state: str) -> int:
    return int(database.value("SELECT count(*) FROM delivery WHERE kind = ? AND state = ?", kind, state))
