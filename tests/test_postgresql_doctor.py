"""The doctor on a PostgreSQL: it checks server, role, replication and content, and changes nothing."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import ACTOR, NOW
from postgresql import NOT_FOUND, PASSWORD, ROLE, Cluster, binaries
from server_process import run, started
from test_doctor import Report

from jobs.doctor.postgresql import SUPPORTED_UNTIL, check_postgresql
from models.building_actions import add_building
from models.check_result import OF_POSTGRESQL, OK, PROBLEM, TITLES, WARNING, CheckResult
from models.clock import Clock
from models.database import command_storage
from models.settings import load
from models.storage.postgres.inspect import PostgresInspection

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(
        auth="scram-sha-256", fsync="on", max_prepared_transactions="5", wal_level="logical"
    ) as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """A database of this program with a building."""
    url = cluster.create_database("leads")
    with command_storage(load({"database_url": url}, environment={})) as storage:
        fields = {"name": "Maple Court", "agent_email": "agent@maple.test"}
        storage.write(add_building, ACTOR, fields, "maple", NOW)
    yield url
    cluster.drop_database("leads")


def found(url: str, **settings: str) -> dict[str, list[CheckResult]]:
    """Return the results by their ids."""
    loaded = load({"database_url": url, "data_dir": "/nonexistent", **settings}, environment={})
    results: dict[str, list[CheckResult]] = {}
    for result in check_postgresql(loaded, Clock(), lambda step: None):
        assert result.id in TITLES and result.found.isprintable() and PASSWORD not in str(result)
        assert (result.fix is None) == (result.state == OK), result
        results.setdefault(result.id, []).append(result)
    assert {*OF_POSTGRESQL, "database", "schema", "clock", "outbox", "last_backup"} <= set(results)
    return results


def one(results: dict[str, list[CheckResult]], check: str, state: str, *words: str) -> None:
    """Check that the only result of a check has this state and these words."""
    [result] = results[check]
    assert result.state == state, result
    assert all(word in f"{result.found} {result.fix}" for word in words), result


def test_database_in_order_has_no_problem(url: str) -> None:
    results = found(url)
    assert {result.state for each in results.values() for result in each} == {OK}, results
    one(results, "database", OK, "leads at 127.0.0.1:", "PostgreSQL 15", "supported until 2027-11-11")
    one(results, "schema", OK, "as this program's")
    one(results, "role", OK, "leads has the rights that it needs")
    one(results, "encryption", OK, "stays on this machine")
    one(results, "durability", OK, "synchronous_commit is on, fsync is on")
    one(results, "replication", OK, "there is no standby")
    one(results, "transactions", OK, "none is open for 5 minutes")
    one(results, "connections", OK, " of 97 are used")
    one(results, "servers", OK, "none connected")
    one(results, "last_backup", OK, "as 'backup create' says")


def test_command_reports_on_postgresql_and_not_on_files(url: str, tmp_path: Path) -> None:
    said = Report(database_url=url, data_dir=str(tmp_path / "data"))
    assert said.of("database")[0]["state"] == OK
    assert said.of("disk space") == [] and PASSWORD not in said.said
    assert not (tmp_path / "data").exists()


def test_doctor_writes_nothing_into_an_empty_database(cluster: Cluster) -> None:
    url = cluster.create_database("empty")
    results = found(url)
    one(results, "schema", WARNING, "the database is empty", "the first start of a server fills it in")
    one(results, "outbox", OK, "there is none yet")
    assert cluster.query("SELECT FROM pg_tables WHERE schemaname = 'public'", database="empty") == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "postgresql://u:hunter2@127.0.0.1:1/db",
            ["can't be reached", "Connection refused", "see that it runs"],
        ),
        ("postgresql://u:hunter2@no-such-host.invalid/db", ["failed to resolve host"]),
        (
            "postgresql://u:hunter2@127.0.0.1/db?sslmode=maybe",
            ["invalid sslmode", "correct LEADS_DATABASE_URL"],
        ),
    ],
)
def test_database_that_can_t_be_used_is_a_problem(url: str, words: list[str]) -> None:
    results = found(url)
    one(results, "database", PROBLEM, *words)
    for check in ("schema", "outbox", *OF_POSTGRESQL):
        one(results, check, WARNING, "see 'database'")


def test_wrong_password_is_a_problem(url: str) -> None:
    one(found(url.replace(PASSWORD, "hunter2")), "database", PROBLEM, "set the right user and password")


def test_version_without_fixes_is_a_warning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUPPORTED_UNTIL, 15, date(2020, 1, 1))
    one(found(url), "database", WARNING, "15 has got no fixes since 2020-01-01", "upgrade PostgreSQL")


@pytest.mark.parametrize(
    ("version", "works_with", "state", "words"),
    [
        (99, 8, WARNING, "a newer version has used the database"),
        (99, 99, PROBLEM, "run the newer version of this program"),
        (7, 7, WARNING, "the next start of a server"),
    ],
)
def test_schema_of_another_version_is_told(
    cluster: Cluster, url: str, version: int, works_with: int, state: str, words: str
) -> None:
    cluster.query(
        f"UPDATE schema_version SET version = {version}, works_with = {works_with}", database="leads"
    )
    one(found(url), "schema", state, str(version), words)


def test_rights_of_the_role_are_checked(cluster: Cluster, url: str) -> None:
    cluster.query("REVOKE INSERT ON lead FROM leads", database="leads")
    one(found(url), "role", PROBLEM, "may not write to lead", "GRANT ALL")
    cluster.query("GRANT INSERT ON lead TO leads", database="leads")
    cluster.query("REVOKE CREATE ON SCHEMA public FROM pg_database_owner", database="leads")
    one(found(url), "role", WARNING, "the next upgrade would fail", "GRANT CREATE")
    cluster.query("GRANT CREATE ON SCHEMA public TO pg_database_owner", database="leads")
    cluster.query("ALTER TABLE lead OWNER TO postgres", database="leads")
    cluster.query("GRANT ALL ON lead TO leads", database="leads")
    one(found(url), "role", WARNING, "tables belong to postgres")
    cluster.query(f"ALTER ROLE {ROLE} SUPERUSER")
    try:
        one(found(url), "role", WARNING, "is a superuser")
    finally:
        cluster.query(f"ALTER ROLE {ROLE} NOSUPERUSER")


def test_settings_that_lose_commits_are_problems(cluster: Cluster, url: str) -> None:
    for name in ("fsync", "full_page_writes"):
        cluster.query(f"ALTER SYSTEM SET {name} = off")
        cluster.query("SELECT pg_reload_conf()")
        while cluster.query(f"SHOW {name}") != [("off",)]:
            time.sleep(0.01)
        one(found(url), "durability", PROBLEM, f"{name} is off", f"set {name} = on")
        cluster.query(f"ALTER SYSTEM RESET {name}")
        cluster.query("SELECT pg_reload_conf()")
    cluster.query(f"ALTER ROLE {ROLE} SET synchronous_commit = off")
    try:
        one(found(url), "database", PROBLEM, "synchronous_commit is off", "SET synchronous_commit = on")
    finally:
        cluster.query(f"ALTER ROLE {ROLE} RESET synchronous_commit")


def test_old_transaction_is_a_warning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(url, application_name="a report") as connection:
        connection.execute("SELECT 1")
        process = connection.info.backend_pid
        monkeypatch.setattr("jobs.doctor.sessions.LONG_TRANSACTION", timedelta(seconds=0))
        words = f"process {process} (a report, idle in transaction) has one open for"
        one(found(url), "transactions", WARNING, words, f"pg_terminate_backend({process})")
        connection.execute("PREPARE TRANSACTION 'forgotten'")
        connection.rollback()
        connection.autocommit = True
        one(found(url), "transactions", WARNING, "the prepared transaction forgotten is")
        connection.execute("ROLLBACK PREPARED 'forgotten'")


def test_used_up_transaction_ids_are_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.doctor.sessions.OLD_TRANSACTION_ID", 0)
    one(found(url), "transactions", WARNING, "is not frozen", "VACUUM FREEZE")
    monkeypatch.setattr("jobs.doctor.sessions.OLDEST_TRANSACTION_ID", 0)
    one(found(url), "transactions", PROBLEM, "of 2.1 billion at most")


def test_few_connections_left_are_a_warning(cluster: Cluster, url: str) -> None:
    cluster.query(f"ALTER ROLE {ROLE} CONNECTION LIMIT 2")
    try:
        with psycopg.connect(url):
            one(found(url), "connections", WARNING, "2 of 2 are used", "ALTER ROLE … CONNECTION LIMIT")
    finally:
        cluster.query(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


def test_two_servers_are_told_to_share_by_source_address(url: str, tmp_path: Path) -> None:
    secret = "0123456789abcdef"
    with started("serve", data_dir=str(tmp_path / "one"), database_url=url, secret=secret) as first:
        assert PASSWORD not in first.output
        results = found(url, secret="0123456789abcdef")
        assert "connected, from 127.0.0.1" in results["servers"][0].found
        one(found(url, secret="another-secret-xx"), "servers", PROBLEM, "their secret is not the one")
        with started("serve", data_dir=str(tmp_path / "two"), database_url=url, secret=secret) as second:
            for server in (first, second):
                run_all_readers(server.url)
            one(found(url), "servers", OK, "2 connected", "hash by source address: see deploy/")


def test_servers_are_counted_and_not_their_connections(url: str) -> None:
    def connected(*names: str) -> str:
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(closing(psycopg.connect(url, application_name=name)))
            return found(url)["servers"][0].found

    assert connected("leads server 1a", "leads server 2b").startswith("2 connected, from 127.0.0.1; each")
    assert connected(*["leads server 1a"] * 4) == "1 connected, from 127.0.0.1"
    assert connected("leads command", "psql") == "none connected"


@pytest.mark.parametrize(
    ("host", "encrypted", "verified", "state", "words"),
    [
        ("db.example", True, True, OK, "the connection to db.example has TLSv1.3"),
        ("db.example", True, False, WARNING, "add sslmode=verify-full and sslrootcert"),
        ("db.example", False, False, WARNING, "sslmode"),
        ("192.0.2.7", True, False, WARNING, "any machine on the way may answer for it"),
        ("127.0.0.1", False, False, OK, "stays on this machine"),
        ("/run/postgresql", False, False, OK, "stays on this machine"),
    ],
)
def test_encryption_to_another_machine_must_be_verified(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    encrypted: bool,
    verified: bool,
    state: str,
    words: str,
) -> None:
    value = PostgresInspection.value

    def answer(inspection: PostgresInspection, statement: str, *values: object) -> Any:
        of_tls = (encrypted, "TLSv1.3" if encrypted else None)
        return of_tls if "pg_stat_ssl" in statement else value(inspection, statement, *values)

    monkeypatch.setattr(PostgresInspection, "value", answer)
    monkeypatch.setattr(PostgresInspection, "host", host)
    monkeypatch.setattr(PostgresInspection, "is_host_verified", verified)
    one(found(url), "encryption", state, words)


def run_all_readers(url: str) -> None:
    """Have a server open its connections."""
    subprocess.run(["curl", "-sS", "-o", "/dev/null", f"{url}/readyz", f"{url}/console"], check=True)


def test_wrong_clock_of_this_machine_is_a_note(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Clock.now

    def late(clock: Clock) -> datetime:
        return true(clock) - timedelta(minutes=150)

    monkeypatch.setattr(Clock, "now", late)
    one(found(url), "clock", OK, "this machine's is 2 hours behind it")


def test_backup_keep_is_told_only_if_it_is_set(url: str) -> None:
    one(found(url, backup_keep="3"), "last_backup", WARNING, "LEADS_BACKUP_KEEP has no effect")
    one(found(url, backup_keep="0"), "last_backup", OK)


# ---- replication


def test_standbys_are_checked(cluster: Cluster) -> None:
    with Cluster() as primary:
        url = primary.create_database("leads")
        with primary.standby("second") as standby:
            one(found(url), "replication", WARNING, "1 standbys, whose state", "GRANT pg_monitor")
            primary.query(f"GRANT pg_monitor TO {ROLE}")
            one(found(url), "replication", OK, "second (sync) is up to date")
            any_host = primary.url("leads", primary.port, standby.port)
            one(found(any_host), "replication", OK)
            one(found(standby.url("leads")), "database", PROBLEM, "session is read-only", "name the primary")
            primary.query(f"ALTER ROLE {ROLE} SET synchronous_commit = local")
            with_local = found(url)
            assert [r.state for r in with_local["durability"]] == [PROBLEM, WARNING]  # fsync is off here
            assert "the standby is not waited for" in with_local["durability"][1].found
            standby.stop()
            while primary.query("SELECT FROM pg_stat_replication"):
                time.sleep(0.01)
            results = found(url)["replication"]
            assert [result.state for result in results] == [WARNING, PROBLEM]
            assert "nothing uses the slot second" in results[0].found
            assert "commits wait for 1 of synchronous_standby_names" in results[1].found
            standby.start()
            primary.query("ALTER SYSTEM RESET synchronous_standby_names")
            primary.query("SELECT pg_reload_conf()")
            while primary.query("SELECT sync_state FROM pg_stat_replication") != [("async",)]:
                time.sleep(0.01)
            one(found(url), "replication", WARNING, "second (async) is asynchronous")


# ---- content


def test_content_is_checked(cluster: Cluster, url: str, tmp_path: Path) -> None:
    with started("serve", data_dir=str(tmp_path / "data"), database_url=url, trusted_proxies="") as server:
        for token in ("maple", "unknown"):
            send_lead(server.url, token)
        send_lead(server.url, "maple", "-H", "Prefer: dry-run")
        send_lead(server.url, "maple", "-H", "X-Forwarded-For: 192.0.2.1")
        server.process.terminate()
        server.process.wait()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("UPDATE customer SET merged = true")
        connection.execute("UPDATE lead SET unregistered_origin = 'https://other.test' WHERE id = 1")
        connection.execute("UPDATE delivery SET state = 'failed' WHERE lead_id = 3")
    results = found(url)
    one(results, "unnotified_leads", WARNING, "1 of the last 7 days matched no building")
    one(results, "dry_runs", WARNING, "1 since yesterday")
    one(results, "undeclared_proxy", WARNING, "requests came through 127.0.0.1")
    one(results, "merged_customers", WARNING, "1 with leads of several renters")
    one(results, "unregistered_origins", WARNING, "https://other.test")
    assert {result.state for result in results["outbox"]} == {WARNING, PROBLEM}


def send_lead(url: str, token: str, *options: str) -> None:
    body = f'{{"token": "{token}", "tour_request": {{"requestor_email": "jane@renter.test"}}}}'
    json = ["-H", "Content-Type: application/json", "-d", body]
    subprocess.run(
        ["curl", "-sSf", "-o", "/dev/null", *json, *options, f"{url}/api/v1/website_leads"], check=True
    )


# ---- what a command says


def test_erased_customer_is_told_what_remains(url: str, tmp_path: Path) -> None:
    with started("serve", data_dir=str(tmp_path / "data"), database_url=url) as server:
        send_lead(server.url, "maple")
    done = run("customer", "erase", "1", "--yes", database_url=url, data_dir=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert "PostgreSQL's files may hold them until it overwrites the free space" in done.stdout


def test_secret_is_rotated_without_a_database_file(url: str, tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    with started("serve", data_dir=data_dir, database_url=url):
        done = run("secret", "rotate", database_url=url, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
    one(found(url, data_dir=data_dir), "servers", OK)
    with started("serve", data_dir=data_dir, database_url=url):
        one(found(url, data_dir=data_dir), "servers", OK)
    done = run("secret", "rotate", database_url=url, data_dir=data_dir, secret="0123456789abcdef")
    assert done.returncode == 1 and ", on each server; after 24 hours" in done.stderr
