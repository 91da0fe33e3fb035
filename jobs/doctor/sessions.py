"""Checks of the sessions of a PostgreSQL: old transactions, connections, and the servers that share it."""

from datetime import timedelta

from jobs.doctor.units import duration_text
from models.check_result import CONNECTIONS, OK, PROBLEM, SERVERS, TRANSACTIONS, WARNING, CheckResult
from models.installation import secret_checks
from models.secret import read_keys
from models.settings import SettingError, Settings
from models.storage.inspected import InspectedDatabase

LONG_TRANSACTION = timedelta(minutes=5)
OLD_TRANSACTION_ID, OLDEST_TRANSACTION_ID = 10**9, 1_600_000_000  # PostgreSQL stops at 2.1 billion
MOST_CONNECTIONS_USED = 0.8

_OLDEST_TRANSACTION = """
SELECT pid::text AS id, coalesce(nullif(application_name, ''), 'no name') AS name, state,
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
UNION ALL
SELECT gid, 'a prepared transaction', 'prepared', extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database()
ORDER BY age DESC LIMIT 1
"""
_TRANSACTION_ID_AGE = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()"
_CONNECTIONS = """
SELECT (SELECT sum(numbackends)::int FROM pg_stat_database) AS used,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
    (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()) AS used_of_database,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS most_of_database,
    (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user) AS used_of_role,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS most_of_role
"""
_SERVERS = """
SELECT coalesce(host(client_addr), 'this host''s socket') AS host,
    count(DISTINCT application_name)::int AS servers
FROM pg_stat_activity
WHERE starts_with(application_name, 'leads server') AND datname = current_database()
GROUP BY 1 ORDER BY 1
"""


def check_transactions(database: InspectedDatabase) -> list[CheckResult]:
    """Check for transactions that keep vacuum from its work, and for what comes of that."""
    results = []
    oldest = next(database.rows(_OLDEST_TRANSACTION), None)
    if oldest is not None and oldest["age"] > LONG_TRANSACTION.total_seconds():
        age = duration_text(timedelta(seconds=oldest["age"]))
        if oldest["state"] == "prepared":
            found, end = f"the prepared transaction {oldest['id']} is {age} old", "ROLLBACK PREPARED"
        else:
            found = f"process {oldest['id']} ({oldest['name']}, {oldest['state']}) has one open for {age}"
            end = f"SELECT pg_terminate_backend({oldest['id']})"
        found += ": vacuum can't remove rows meanwhile"
        results.append(CheckResult(TRANSACTIONS, WARNING, found, f"find out what it does; {end} ends it"))
    age_of_ids = int(database.value(_TRANSACTION_ID_AGE))
    if age_of_ids > OLD_TRANSACTION_ID:
        found = (
            f"the oldest row that is not frozen is {age_of_ids:,} transactions old, of 2.1 billion at most"
        )
        fix = "end old transactions, drop unused replication slots, then run VACUUM FREEZE"
        state = PROBLEM if age_of_ids > OLDEST_TRANSACTION_ID else WARNING
        results.append(CheckResult(TRANSACTIONS, state, found, fix))
    return results or [
        CheckResult(TRANSACTIONS, OK, f"none is open for {duration_text(LONG_TRANSACTION)} or more")
    ]


def check_connections(database: InspectedDatabase) -> CheckResult:
    """Check that there is room for more connections: to the server, the database, and by the role."""
    row = next(database.rows(_CONNECTIONS))
    limits = [
        (row["used"], row["most"], "max_connections in postgresql.conf"),
        (row["used_of_database"], row["most_of_database"], "ALTER DATABASE … CONNECTION LIMIT"),
        (row["used_of_role"], row["most_of_role"], "ALTER ROLE … CONNECTION LIMIT"),
    ]
    used, most, limit = max(
        (each for each in limits if each[1] >= 0), key=lambda each: each[0] / (each[1] or 1)
    )
    found = f"{used} of {most} are used"
    if used > MOST_CONNECTIONS_USED * most:
        fix = f"raise {limit}, or find out who holds them: SELECT * FROM pg_stat_activity"
        return CheckResult(CONNECTIONS, WARNING, found, fix)
    return CheckResult(CONNECTIONS, OK, found)


def check_servers(database: InspectedDatabase, settings: Settings) -> list[CheckResult]:
    """Name the servers that are connected, and check that their secret is that of these settings."""
    hosts = list(database.rows(_SERVERS))
    servers = sum(host["servers"] for host in hosts)
    names = ", ".join(host["host"] for host in hosts)
    found = f"{servers or 'none'} connected" + (f", from {names}" if hosts else "")
    if servers > 1:
        found = (
            f"{found}; each counts a client's requests by itself, so have the balancer hash by "
            "source address: see deploy/"
        )
    if problem := _other_secret(database, settings):
        return [CheckResult(SERVERS, PROBLEM, f"{found}; {problem}", "set LEADS_SECRET to theirs")]
    return [CheckResult(SERVERS, OK, found)]


def _other_secret(database: InspectedDatabase, settings: Settings) -> str | None:
    """Return that the servers have another secret than these settings; None if that is not known."""
    if not database.has_known_schema:
        return None
    installation, noted = database.value("SELECT id, secret_check FROM installation")
    try:
        keys = read_keys(settings.data_dir, settings.secret)
    except SettingError:
        return None
    if noted is None or keys is None or noted in secret_checks(keys, installation):
        return None
    return "their secret is not the one of these settings, so a server with these would not start"
