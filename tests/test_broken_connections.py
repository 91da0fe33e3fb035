"""Connections to PostgreSQL that break or hang: what is repeated, what is given up, what is never told."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql import NOT_FOUND, Cluster, binaries, database_url, forget, shared_cluster

from models.storage import OutcomeUnknown, StorageError

if binaries() is None:
    pytest.skip(NOT_FOUND, allow_module_level=True)

from models.storage.postgres import transaction, writer
from models.storage.postgres.connection import (
    Connection,
    close_database,
    database,
    usable_connection,
    use_database,
)
from models.storage.postgres.reader import PostgresReader
from models.storage.postgres.storage import PostgresStorage

HANGS = "SELECT pg_sleep(600)"


def execute(sql: str, *values: object) -> list[tuple[Any, ...]]:
    cursor = database.own_connection().execute(sql.encode(), values or None)
    return cursor.fetchall() if cursor.description is not None else []


@pytest.fixture
def cluster() -> Cluster:
    return shared_cluster()


@pytest.fixture
def storage(tmp_path: Path, io_loop: Any) -> Iterator[PostgresStorage]:
    """A running storage, with a table of its own."""
    storage = PostgresStorage(database_url(tmp_path))
    storage.open()
    io_loop.add_callback(storage.start)
    io_loop.run_sync(lambda: storage.write(execute, "CREATE TABLE noted (text text)"))
    yield storage
    io_loop.run_sync(storage.close)
    forget(tmp_path)


async def noted(storage: PostgresStorage) -> list[str]:
    return [text for (text,) in await storage.read(execute, "SELECT text FROM noted ORDER BY text")]


def note(text: str) -> None:
    execute("INSERT INTO noted VALUES (%s)", text)


def sessions(cluster: Cluster, condition: str = "true") -> list[int]:
    is_ours = "starts_with(application_name, 'leads server')"
    rows = cluster.query(f"SELECT pid FROM pg_stat_activity WHERE {is_ours} AND {condition}")
    return [pid for (pid,) in rows]


async def waiting(cluster: Cluster, event: str) -> int:
    while not (found := sessions(cluster, f"wait_event = '{event}'")):
        await asyncio.sleep(0.01)
    return found[0]


async def test_ended_sessions_cost_no_write_and_no_read(storage: PostgresStorage, cluster: Cluster) -> None:
    await noted(storage)
    for text in "ab":
        for pid in sessions(cluster):
            cluster.query("SELECT pg_terminate_backend(%s, 5000)", pid)
        await storage.write(note, text)
        assert await noted(storage) == list("ab"[: 1 + "ab".index(text)])


async def test_restarted_postgresql_costs_no_write(storage: PostgresStorage, cluster: Cluster) -> None:
    await storage.write(note, "before")
    await asyncio.to_thread(cluster.kill)
    await asyncio.to_thread(cluster.start)
    await storage.write(note, "later")
    assert await noted(storage) == ["before", "later"]


async def test_writes_fail_at_once_while_postgresql_is_stopped(
    storage: PostgresStorage, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(cluster.stop)
    for _ in range(50):
        with pytest.raises(StorageError):
            await storage.write(note, "lost")
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) <= 4
    await asyncio.to_thread(cluster.start)
    while True:
        try:
            await storage.write(note, "kept")
            break
        except StorageError:
            await asyncio.sleep(0.02)
    assert await noted(storage) == ["kept"]


async def test_hanging_write_and_read_are_given_up(
    storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STALLED_SECONDS", 0.1)
    monkeypatch.setattr(transaction, "REPEAT_SECONDS", 0)
    storage._quick_reader._seconds = 0.1
    with pytest.raises(StorageError):
        await storage.write(execute, HANGS)
    storage._quick_reader._attempts = 1
    with pytest.raises(StorageError):
        await storage.read(execute, HANGS)
    monkeypatch.undo()
    while storage.writer._lost is not None:
        await asyncio.sleep(0.01)
    await storage.write(note, "later")
    assert await noted(storage) == ["later"]


async def test_session_of_a_given_up_connection_is_ended(
    storage: PostgresStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STALLED_SECONDS", 0.1)
    monkeypatch.setattr(transaction, "REPEAT_SECONDS", 0)
    with pytest.raises(StorageError):
        await storage.write(execute, HANGS)
    while sessions(cluster, "wait_event = 'PgSleep'"):
        await asyncio.sleep(0.01)


async def test_stop_waits_for_no_hanging_read(
    storage: PostgresStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.postgres.reader.CLOSE_SECONDS", 0.1)
    storage._slow_reader._attempts = 1
    reading = asyncio.ensure_future(storage.read_slowly(execute, HANGS))
    await waiting(cluster, "PgSleep")
    await storage._slow_reader.close()
    with pytest.raises(StorageError):
        await reading
    storage._slow_reader = PostgresReader("slow reader", 1)


async def test_swallowed_error_of_a_statement_is_no_commit(storage: PostgresStorage) -> None:
    def careless() -> None:
        note("lost")
        try:
            execute("SELECT 1 / 0")
        except Exception:
            pass

    with pytest.raises(StorageError):
        await storage.write(careless)
    assert await noted(storage) == []


@pytest.mark.parametrize("role_says", ["", "SET client_min_messages = error"])
async def test_C4_commit_without_its_standby_is_not_told(
    storage: PostgresStorage, cluster: Cluster, role_says: str
) -> None:
    cluster.query(f"ALTER ROLE leads {role_says or 'RESET ALL'}")
    cluster.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.query("SELECT pg_reload_conf()")
    try:
        for pid in sessions(cluster):
            cluster.query("SELECT pg_terminate_backend(%s, 5000)", pid)
        writing = asyncio.ensure_future(storage.write(note, "unsafe"))
        while not writing.done():  # an operator cancels each wait
            for pid in sessions(cluster, "wait_event = 'SyncRep'"):
                cluster.query("SELECT pg_cancel_backend(%s)", pid)
            await asyncio.sleep(0.02)
        with pytest.raises(OutcomeUnknown):
            await writing
    finally:
        cluster.query("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.query("SELECT pg_reload_conf()")
        cluster.query("ALTER ROLE leads RESET ALL")


async def test_given_up_wait_for_the_standby_ends(
    storage: PostgresStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr("models.storage.postgres.stall_timer.AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(transaction, "ASK_SECONDS", 1.0)
    cluster.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    cluster.query("SELECT pg_reload_conf()")
    try:
        with pytest.raises(OutcomeUnknown):
            await storage.write(note, "unknown")
        assert len(sessions(cluster)) <= 2  # no session of each attempt waits on
    finally:
        cluster.query("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.query("SELECT pg_reload_conf()")


def test_connection_of_a_thread_alone_is_given_up(tmp_path: Path) -> None:
    storage = PostgresStorage(database_url(tmp_path))
    storage.open()
    usable_connection()
    assert database.give_up(threading.get_ident() + 1) is False
    assert execute("SELECT 1") == [(1,)]
    assert database.give_up(threading.get_ident()) is True
    time.sleep(0.01)
    with pytest.raises(Exception, match="."):
        execute("SELECT 1")
    storage.abandon()
    forget(tmp_path)


# ---- the outcome of a commit after a crash


@pytest.fixture
def crashing() -> Iterator[Cluster]:
    """A cluster with a database 'leads', which this thread uses; a crash loses what no commit has written."""
    with Cluster(wal_writer_delay="10s", autovacuum="off") as cluster:
        use_database(cluster.create_database("leads"), "leads test")
        execute("CREATE TABLE noted (text text)")
        yield cluster
        close_database()


def kill_all(cluster: Cluster) -> None:
    cluster.kill()
    cluster.start()


def kill_one(cluster: Cluster) -> None:
    """End one process by SIGKILL, for which PostgreSQL ends all others and recovers."""
    [(pid,)] = cluster.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    before = cluster.query("SELECT pg_postmaster_start_time()")
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            [(new,)] = cluster.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
            assert new != pid and cluster.query("SELECT pg_postmaster_start_time()") == before
            return
        except (psycopg.Error, ValueError):
            time.sleep(0.01)


@pytest.mark.parametrize("crash", [kill_all, kill_one])
def test_C32_id_given_out_again_after_a_crash_proves_nothing(
    crashing: Cluster, crash: Callable[[Cluster], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, ids = transaction.commit, []

    def crash_and_commit(connection: Connection, transaction_id: str | None) -> str | None:
        crash(crashing)
        with psycopg.connect(crashing.url("leads")) as other:
            other.execute("INSERT INTO noted VALUES ('of another server')")
            ids.extend([transaction_id, other.execute("SELECT pg_current_xact_id()").fetchall()[0][0]])
        return commit(connection, transaction_id)

    monkeypatch.setattr(transaction, "commit", crash_and_commit)
    with pytest.raises(OutcomeUnknown):
        transaction.transact(lambda: note("lost"))
    assert ids[0] == ids[1]
    assert crashing.query("SELECT text FROM noted", database="leads") == [("of another server",)]


def test_clean_restart_keeps_the_history_and_a_crash_does_not(crashing: Cluster) -> None:
    before = usable_connection().history
    crashing.stop()
    crashing.start()
    assert usable_connection().history == before
    kill_all(crashing)
    assert usable_connection().history != before


# ---- commits that may be lost


async def test_C4_commits_turned_unsafe_meanwhile_store_nothing(
    storage: PostgresStorage, cluster: Cluster
) -> None:
    async def turned(value: str) -> None:
        cluster.query("SELECT pg_reload_conf()")
        while await storage.write(execute, "SHOW synchronous_commit") != [(value,)]:
            await asyncio.sleep(0.01)

    await storage.write(note, "before")
    cluster.query("ALTER SYSTEM SET synchronous_commit = off")
    try:
        await turned("off")
        with pytest.raises(StorageError, match="synchronous_commit is off"):
            await storage.write(note, "unsafe")
    finally:
        cluster.query("ALTER SYSTEM RESET synchronous_commit")
    await turned("on")
    await storage.write(note, "later")
    assert await noted(storage) == ["before", "later"]
