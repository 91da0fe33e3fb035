"""Checks of a PostgreSQL as a database: the server, the schema, the role, the connection, the clock.

They run in a session that can't write.
"""

import ipaddress
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from jobs.doctor.content import CHECKS, check_content, without_content
from jobs.doctor.database import newest_lead_at
from jobs.doctor.machine import CLOCK_TOLERANCE, check_clock
from jobs.doctor.replication import check_durability, check_replication
from jobs.doctor.sessions import check_connections, check_servers, check_transactions
from jobs.doctor.units import duration_text, size_text
from models.check_result import (
    CLOCK,
    CONNECTIONS,
    DATABASE,
    DURABILITY,
    ENCRYPTION,
    LAST_BACKUP,
    OF_POSTGRESQL,
    OK,
    PROBLEM,
    REPLICATION,
    ROLE,
    SCHEMA,
    SERVERS,
    TRANSACTIONS,
    WARNING,
    CheckResult,
    check_failed,
    reporting_failure,
)
from models.clock import Clock
from models.database import inspected_postgresql
from models.settings import Settings
from models.storage import DatabaseUnusable, StorageError

if TYPE_CHECKING:
    from models.storage.postgres.inspect import PostgresInspection

# The last day of each major version's support: https://www.postgresql.org/support/versioning/
SUPPORTED_UNTIL = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}

_SERVER = """
SELECT current_database() AS name, current_setting('server_version_num')::int / 10000 AS major,
    split_part(current_setting('server_version'), ' ', 1) AS version,
    pg_database_size(current_database())::float8 AS size
"""
_ROLE = """
SELECT current_user AS name, quote_ident(current_user) AS quoted, rolsuper AS is_superuser,
    has_schema_privilege(current_schema(), 'CREATE') AS may_create
FROM pg_roles WHERE rolname = current_user
"""
_TABLES = """
SELECT relname, pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS is_own,
    has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
        AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE') AS may_write
FROM pg_class
WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_version'))
    AND relkind = 'r' AND relname = ANY (?)
ORDER BY relname
"""


def check_postgresql(settings: Settings, clock: Clock, progress: Callable[[str], None]) -> list[CheckResult]:
    """Run the checks of the PostgreSQL that the settings name. Changes and raises nothing.

    clock: this machine's.
    """
    progress("reading the database")
    results = [check_backups(settings)]
    try:
        with inspected_postgresql(settings) as database:
            _check_all(database, settings, clock, results)
    except (DatabaseUnusable, StorageError) as error:
        found, _, fix = str(error).partition("; ")
        results.append(CheckResult(DATABASE, PROBLEM, found, fix or "look at the log of PostgreSQL"))
    except Exception as error:
        results.append(check_failed(DATABASE, error))
    done = {result.id for result in results}
    missing = [check for check in (SCHEMA, *OF_POSTGRESQL, *CHECKS) if check not in done]
    results += without_content(*missing, has_problem=True)
    if CLOCK not in done:
        results.append(check_clock(None, clock.now()))
    return results


def _check_all(
    database: "PostgresInspection", settings: Settings, clock: Clock, results: list[CheckResult]
) -> None:
    now = database.now()
    checks: dict[str, Callable[[], list[CheckResult]]] = {
        DATABASE: lambda: [check_server(database, now.date())],
        SCHEMA: lambda: [check_schema(database)],
        ROLE: lambda: check_role(database),
        ENCRYPTION: lambda: [check_encryption(database)],
        DURABILITY: lambda: check_durability(database),
        REPLICATION: lambda: check_replication(database),
        TRANSACTIONS: lambda: check_transactions(database),
        CONNECTIONS: lambda: [check_connections(database)],
        SERVERS: lambda: check_servers(database, settings),
        CLOCK: lambda: _check_clocks(database, clock),
    }
    for check, run in checks.items():
        with reporting_failure(check, results):
            results += run()
    if database.has_known_schema:
        results += check_content(lambda question: question(database), settings, now)
    else:
        results += without_content(*CHECKS, has_problem=database.schema > 0)


def check_server(database: "PostgresInspection", today: date) -> CheckResult:
    """Check the version of PostgreSQL."""
    server = next(database.rows(_SERVER))
    place = database.host if database.host.startswith("/") else f"{database.host}:{database.port}"
    size = size_text(server["size"])
    found = f"{server['name']} at {place}, PostgreSQL {server['version']}, {size}"
    until = SUPPORTED_UNTIL.get(server["major"])
    if until is not None and today > until:
        return CheckResult(
            DATABASE,
            WARNING,
            f"{found}; {server['major']} has got no fixes since {until}",
            f"upgrade PostgreSQL, such as to {max(SUPPORTED_UNTIL)}",
        )
    return CheckResult(DATABASE, OK, found + (f", supported until {until}" if until else ""))


def check_schema(database: "PostgresInspection") -> CheckResult:
    """Check that this program can use the database's schema."""
    version, newest = database.schema, database.newest_known
    if version == 0:
        fix = "the first start of a server fills it in"
        return CheckResult(SCHEMA, WARNING, "the database is empty", fix)
    if not database.has_known_schema:
        found = f"{version}, too new for this program's {newest}"
        return CheckResult(SCHEMA, PROBLEM, found, "run the newer version of this program")
    if version > newest:
        found = f"{version}, which works with this program's {newest}: a newer version has used the database"
        return CheckResult(SCHEMA, WARNING, found, "end the upgrade: run the newer version on each server")
    if version < newest:
        fix = "the next start of a server of this version upgrades it; servers of the last one go on"
        return CheckResult(SCHEMA, WARNING, f"{version}, older than this program's {newest}", fix)
    return CheckResult(SCHEMA, OK, f"{version}, as this program's")


def check_role(database: "PostgresInspection") -> list[CheckResult]:
    """Check that the role can use and upgrade the tables, and is no superuser."""
    role = next(database.rows(_ROLE))
    tables = list(database.rows(_TABLES, list(database.tables))) if database.schema else []
    results = []
    if locked := [table["relname"] for table in tables if not table["may_write"]]:
        fix = f"GRANT ALL ON ALL TABLES IN SCHEMA … TO {role['quoted']}, or use the role that owns them"
        found = f"{role['name']} may not write to {', '.join(locked[:3])}{', …' if locked[3:] else ''}"
        results.append(CheckResult(ROLE, PROBLEM, found, fix))
    if not role["may_create"]:
        found = f"{role['name']} may not create tables, so the next upgrade would fail"
        results.append(CheckResult(ROLE, WARNING, found, f"GRANT CREATE ON SCHEMA … TO {role['quoted']}"))
    elif others := {table["owner"] for table in tables if not table["is_own"]}:
        found = f"tables belong to {', '.join(sorted(others))}, so an upgrade by {role['name']} would fail"
        results.append(CheckResult(ROLE, WARNING, found, "ALTER TABLE … OWNER TO …, or use their owner"))
    if role["is_superuser"]:
        fix = "make one that owns the database: CREATE ROLE … LOGIN PASSWORD …, ALTER DATABASE … OWNER TO …"
        results.append(CheckResult(ROLE, WARNING, f"{role['name']} is a superuser, which is not needed", fix))
    return results or [CheckResult(ROLE, OK, f"{role['name']} has the rights that it needs")]


def check_encryption(database: "PostgresInspection") -> CheckResult:
    """Check that a connection to another machine is encrypted."""
    encrypted, version = database.value("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    if _is_this_machine(database.host):
        return CheckResult(ENCRYPTION, OK, "not needed: the connection stays on this machine")
    if encrypted and database.is_host_verified:
        return CheckResult(ENCRYPTION, OK, f"the connection to {database.host} has {version}")
    if encrypted:
        return CheckResult(
            ENCRYPTION,
            WARNING,
            f"the connection to {database.host} has {version}, but any machine on the way may answer for it",
            "add sslmode=verify-full and sslrootcert to LEADS_DATABASE_URL",
        )
    return CheckResult(
        ENCRYPTION,
        WARNING,
        f"the connection to {database.host} is not encrypted: renters' data can be read on the way",
        "set up TLS on the database's host; add sslmode=verify-full and sslrootcert to LEADS_DATABASE_URL",
    )


def _is_this_machine(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_clocks(database: "PostgresInspection", clock: Clock) -> list[CheckResult]:
    newest = newest_lead_at(database)
    now = database.now()
    result = check_clock(newest, now)
    off = clock.now() - now
    if abs(off) <= CLOCK_TOLERANCE or result.state != OK:
        return [result]
    direction = "behind" if off.total_seconds() < 0 else "ahead of"
    note = f"this machine's is {duration_text(off)} {direction} it, which matters to its log alone"
    return [CheckResult(CLOCK, OK, f"the database's: {result.found}; {note}")]


def check_backups(settings: Settings) -> CheckResult:
    """Return that PostgreSQL's own programs make the backups, which are not seen from here."""
    if settings.origin("backup_keep") != "default" and settings.backup_keep:
        found = "LEADS_BACKUP_KEEP has no effect: the server makes no backup of a PostgreSQL"
        return CheckResult(LAST_BACKUP, WARNING, found, "remove it, and do as 'backup create' says")
    found = "not seen from here: PostgreSQL's own programs make them, as 'backup create' says"
    return CheckResult(LAST_BACKUP, OK, found)
