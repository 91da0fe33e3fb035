"""Checks of the database: integrity, schema, outbox, leads of which no agent was notified, merged customers.

They create and change nothing, not even a WAL beside a database that no process has open.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from jobs.doctor.units import duration_text, size_text
from models.check_result import (
    DATABASE,
    MERGED_CUSTOMERS,
    OK,
    OUTBOX,
    PROBLEM,
    SCHEMA,
    UNNOTIFIED,
    WARNING,
    CheckResult,
)
from models.clock import utc_text
from models.outbox.delivery import FAILED, PENDING, QUARANTINED
from models.outbox.destination import Destination, why_waiting
from models.storage.inspected import InspectedDatabase
from models.storage.sqlite.connection import size_with_wal
from models.storage.sqlite.inspect import (
    FOREIGN_KEY_CHECK,
    QUICK_CHECK,
    Inspection,
    Problem,
    inspect,
)
from models.storage.sqlite.locks import lock_holder
from models.storage.sqlite.migrations.steps import NEWEST

RECENT = timedelta(days=7)
LASTING_FAILURES = 5  # of a destination in a row: it has held its deliveries for more than a minute

MOST_NAMED = 10  # customers whose ids are in a result
MERGED_SINCE_SCHEMA = 6  # the first that has customer.merged
ADDRESSED_MAIL_SINCE_SCHEMA = 7  # the first that has delivery.content
MOVED_SINCE_SCHEMA = 8  # the first that has installation.moved_to

RESTORE = "stop the server, keep the folder as it is, see 'backup list', then 'backup restore FILE'"


def check_database(path: Path) -> CheckResult:
    """Check that the database exists, belongs to this program, and is whole. Raises OSError."""
    folder = path.parent
    inspection = inspect(
        path, [QUICK_CHECK, FOREIGN_KEY_CHECK], any_schema=True
    )  # check_schema reports a newer one
    if inspection.creation_interrupted:
        found = f"{path} was being made when something cut that off"
        return CheckResult(DATABASE, WARNING, found, "the next command or start undoes it, and begins anew")
    if inspection.problem is not None:
        return _problem(inspection)
    if not path.exists():
        fix = "the first 'serve' or 'building add' makes it; if there should be one, give --data-dir"
        return CheckResult(DATABASE, WARNING, f"there is none yet in {folder}", fix)
    holder = lock_holder(folder)
    runs = "no server runs on it" if holder is None else f"a server runs on it (process {holder})"
    return CheckResult(DATABASE, OK, f"{path} is whole, {size_text(size_with_wal(path))}; {runs}")


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
            found, fix = f"{folder} is no folder", "set --data-dir to the folder of the data"
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
            fix = "find out which process has it open, and look for disk errors in the system's log"
    return CheckResult(DATABASE, PROBLEM, found, fix)


def check_schema(database: InspectedDatabase) -> CheckResult:
    """Check that this program can use the database's schema."""
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


def newest_lead_at(database: InspectedDatabase) -> datetime | None:
    """Return when the newest lead was stored; None if there is none, or the schema is not a known one."""
    if not database.has_known_schema:
        return None
    # The newest by its id: a lead that was stored while the clock was ahead counts only until the next lead.
    created_at = database.value("SELECT created_at FROM lead ORDER BY id DESC LIMIT 1")
    return None if created_at is None else datetime.fromisoformat(created_at)


def in_use_since(database: InspectedDatabase) -> datetime | None:
    """Return when the first building was registered or the first lead was stored.

    Return None if there is neither, or the schema is not a known one.
    """
    if not database.has_known_schema:
        return None
    firsts = "SELECT min(created_at) AS at FROM building UNION SELECT created_at FROM lead WHERE id = 1"
    return min(
        (datetime.fromisoformat(row["at"]) for row in database.rows(firsts) if row["at"]), default=None
    )


def check_outbox(database: InspectedDatabase, missing: Mapping[str, str], now: datetime) -> list[CheckResult]:
    """Check for deliveries that failed, and for those that wait for the operator.

    missing: what the settings lack, by the kind of delivery that can't leave without it.
    """
    if database.has_schema(MOVED_SINCE_SCHEMA) and (
        place := database.value("SELECT moved_to FROM installation")
    ):
        fix = "use that place; if it has taken no lead since, 'move --undo' makes this the one to use again"
        return [CheckResult(OUTBOX, PROBLEM, f"all leads were moved from here to {place}", fix)]
    version = database.schema or 0
    if version and not database.has_known_schema:
        return [CheckResult(OUTBOX, WARNING, "not known, as the schema is a newer one", "see 'schema'")]
    if version == 0:
        return [CheckResult(OUTBOX, OK, "there is none yet")]
    results: list[CheckResult] = []
    all_waiting = 0
    for destination in _destinations(database):
        destination.configured = destination.configured or destination.kind not in missing
        destination.missing = missing.get(destination.kind)
        kind, reason = destination.kind, why_waiting(destination, now)
        waiting, failed = (_count(database, kind, state) for state in (PENDING, FAILED))
        all_waiting += waiting
        if waiting and reason is not None:
            if destination.paused:
                fix = f"look at 'outbox list --state pending --kind {kind}', then run 'outbox resume {kind}'"
            elif not destination.configured:
                fix = "set it, and start the server again"
            else:
                fix = f"fix that cause; 'outbox resume {kind}' then retries at once"
            lasts = not destination.paused and destination.failures >= LASTING_FAILURES
            state = PROBLEM if lasts else WARNING
            results.append(CheckResult(OUTBOX, state, f"{kind}: {waiting} waiting, {reason}", fix))
        if failed:
            fix = f"see why in 'outbox list --state failed --kind {kind}', then 'outbox retry' or 'skip' them"
            results.append(CheckResult(OUTBOX, PROBLEM, f"{kind}: {failed} given up", fix))
    return results or [CheckResult(OUTBOX, OK, f"{all_waiting} waiting, nothing held, nothing given up")]


def check_unnotified(database: InspectedDatabase, now: datetime) -> list[CheckResult]:
    """Check for recent leads of which no agent was notified, and for quarantined ones."""
    if not database.has_known_schema:
        return [CheckResult(UNNOTIFIED, OK, "there are no leads yet")]
    # A lead may have been sent again since: its newest mail counts. Older schemas have one mail a lead.
    of_lead = " AND content = 'lead'" if database.has_schema(ADDRESSED_MAIL_SINCE_SCHEMA) else ""
    skipped = (
        "SELECT count(*) FROM lead LEFT JOIN building ON building.id = lead.building_id"
        " WHERE lead.created_at > ? AND 'skipped' = (SELECT state FROM delivery"
        f" WHERE lead_id = lead.id AND kind = 'email'{of_lead} ORDER BY delivery.id DESC LIMIT 1)"
    )
    since = utc_text(now - RECENT)
    results = []
    if unassigned := database.value(f"{skipped} AND lead.building_id IS NULL", since):
        fix = "see 'lead list --unassigned', then 'lead assign' them; is the website's token right?"
        found = f"{unassigned} of the last {duration_text(RECENT)} matched no building"
        results.append(CheckResult(UNNOTIFIED, WARNING, found, fix))
    if without_agent := database.value(f"{skipped} AND building.agent_email IS NULL", since) - unassigned:
        found = (
            f"{without_agent} of the last {duration_text(RECENT)} are of buildings without an agent e-mail"
        )
        fix = "see 'building list', set it with 'building update', then 'outbox retry' their mail"
        results.append(CheckResult(UNNOTIFIED, WARNING, found, fix))
    # The state was 'held' before schema 5. A literal, so that the state's partial index serves the query.
    state = QUARANTINED if (database.schema or 0) >= 5 else "held"
    quarantined = f"SELECT count(DISTINCT lead_id) FROM delivery WHERE state = '{state}'"
    if waiting := database.value(quarantined):
        fix = "see 'lead list --suspected', then 'lead release' the genuine ones, or 'outbox skip' them"
        found = f"{waiting} are held as they look like spam"
        results.append(CheckResult(UNNOTIFIED, WARNING, found, fix))
    return results or [CheckResult(UNNOTIFIED, OK, f"none in the last {duration_text(RECENT)}")]


def check_merged_customers(database: InspectedDatabase) -> CheckResult:
    """Check for customers that hold leads of several renters, as an older rule merged them."""
    if not database.has_schema(MERGED_SINCE_SCHEMA):
        return CheckResult(MERGED_CUSTOMERS, OK, "none is known to hold leads of several renters")
    merged = "FROM customer WHERE merged AND erased_at IS NULL"
    if not (count := database.value(f"SELECT count(*) {merged}")):
        return CheckResult(MERGED_CUSTOMERS, OK, "each holds leads of one renter")
    rows = database.rows(f"SELECT id {merged} ORDER BY id LIMIT {MOST_NAMED}")
    ids = ", ".join(str(row["id"]) for row in rows) + (", …" if count > MOST_NAMED else "")
    found = f"{count} with leads of several renters, joined by a phone that no longer joins them: {ids}"
    fix = "see 'customer list --merged' and 'lead list --customer ID', then run 'customer split ID' for each"
    return CheckResult(MERGED_CUSTOMERS, WARNING, found, fix)


def _destinations(database: InspectedDatabase) -> list[Destination]:
    # Not by Peewee's query, which names every column: an older schema lacks some.
    rows = database.rows("SELECT * FROM destination ORDER BY kind")
    destinations = [Destination(**row) for row in rows]
    for destination in destinations:
        destination.hold_until = Destination.hold_until.python_value(destination.hold_until)
    return destinations


def _count(database: InspectedDatabase, kind: str, state: str) -> int:
    return int(database.value("SELECT count(*) FROM delivery WHERE kind = ? AND state = ?", kind, state))
