"""Storing leads in PostgreSQL: batches, conflicts, an outage, a hang, and the outcome of a broken commit."""

import asyncio
import functools
import json
import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from conftest import ServerHarness, StartHarness, SteppedClock, held, until
from databases import IS_POSTGRESQL
from link import CUT_NEEDS_ROOT, Link, can_cut
from peewee import IntegrityError
from postgresql import Cluster
from tornado.ioloop import IOLoop

from models.settings import SettingError
from models.storage import DatabaseUnusable, StorageError, rows, submit_and_wait
from models.storage.postgres import connection, transaction
from models.storage.postgres.clock import LONGEST_SECONDS, DatabaseClock
from models.storage.postgres.connection import database, use_database
from models.storage.postgres.migrations.migrate import LOCK as MIGRATIONS
from models.storage.postgres.writer import STALLED_SECONDS, PostgresWriter
from models.storage.storage_check import StorageCheck

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(not IS_POSTGRESQL, reason="the tests on PostgreSQL run it"),
]

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
NOT_STORED = "the server can't store leads now; the lead was not stored"
NEEDS_ROOT = pytest.mark.skipif(not can_cut(), reason=CUT_NEEDS_ROOT)
LOCK = 7
REFUSED = (IntegrityError, psycopg.IntegrityError)  # a row, by the database

# The commit of a lead waits until nobody else holds the lock.
SLOW_COMMIT = """
CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
    PERFORM pg_advisory_xact_lock(7);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON lead DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_lock()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty database of the cluster."""
    yield cluster.create_database("leads")
    cluster.drop_database("leads")


async def started(start_harness: StartHarness, url: str, **settings: str) -> ServerHarness:
    """Start a server that has no destinations, so that leads are its only writes."""
    harness = await start_harness(
        database_url=url, rate_limit="100000/1", smtp_url="", june_homes_url="", **settings
    )
    await harness.building()
    return harness


async def refusal(harness: ServerHarness) -> str:
    """POST a lead that is refused for the storage; return what is said."""
    response = await harness.post(LEAD)
    assert response.code == 503 and int(response.headers["Retry-After"]) >= 1
    return str(json.loads(response.body)["error"])


async def readiness(harness: ServerHarness, clock: SteppedClock) -> int:
    clock.step(5)  # an answer is kept for a while
    return (await harness.request("GET", "/readyz")).code


async def is_stored_again(harness: ServerHarness) -> None:
    """Wait until a lead is stored, as a client does that sends it again."""
    while (await harness.post(LEAD)).code != 201:
        await asyncio.sleep(0.05)


# ---- the writer


@pytest.fixture
def writer(io_loop: IOLoop, url: str) -> Iterator[PostgresWriter]:
    """A writer on a database with a table of words."""
    with psycopg.connect(url) as made:
        made.execute("CREATE TABLE word (text text PRIMARY KEY, times int NOT NULL DEFAULT 1)")

    async def start() -> PostgresWriter:
        use_database(url, "test")
        writer = PostgresWriter()
        writer.start()
        return writer

    started: PostgresWriter = io_loop.run_sync(start)
    yield started
    io_loop.run_sync(started.close)


def store(words: Sequence[str | None]) -> list[int]:
    for word in words:
        rows.database.execute_sql("INSERT INTO word VALUES (%s)", (word,))
    return [len(word or "") for word in words]


def words(url: str, what: str = "text") -> list[Any]:
    with psycopg.connect(url) as reading:
        return [row[0] for row in reading.execute(f"SELECT {what} FROM word ORDER BY text".encode())]


async def test_writes_submitted_together_share_one_commit(writer: PostgresWriter, url: str) -> None:
    writes = (submit_and_wait(writer, store, word) for word in ("a", "bc", "d"))
    assert await asyncio.gather(*writes) == [1, 2, 1]
    assert len(set(words(url, "xmin::text"))) == 1


async def test_item_that_fails_takes_no_neighbour_down(writer: PostgresWriter, url: str) -> None:
    given = ["a", None, "b", None, "c"]  # NOT NULL fails
    results = await asyncio.gather(
        *(submit_and_wait(writer, store, word) for word in given), return_exceptions=True
    )
    assert [isinstance(result, REFUSED) for result in results] == [word is None for word in given]
    assert words(url) == ["a", "b", "c"]
    with pytest.raises(REFUSED):
        await submit_and_wait(writer, store, None)
    assert await submit_and_wait(writer, store, "after it") == 8


async def test_refused_row_is_not_in_its_error(
    writer: PostgresWriter, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(url) as other:
        other.execute("ALTER TABLE word ADD renter text")

    def store_renter(items: Sequence[str]) -> Sequence[str]:
        for renter in items:
            rows.database.execute_sql("INSERT INTO word (text, renter) VALUES (NULL, %s)", (renter,))
        return items

    refused = functools.partial(submit_and_wait, writer, store_renter, "jane@renter.test")
    alone = await asyncio.gather(refused(), return_exceptions=True)
    shared = await asyncio.gather(
        submit_and_wait(writer, store, "a"),
        refused(),
        submit_and_wait(writer, store, "b"),
        return_exceptions=True,
    )
    assert list(shared[::2]) == [1, 1] and words(url) == ["a", "b"]
    for error in (alone[0], shared[1]):
        assert isinstance(error, REFUSED) and "null value" in str(error)
        assert "jane" not in "".join(traceback.format_exception(error))
    assert "jane" not in caplog.text


def find_or_store(words: Sequence[str]) -> list[str]:
    found = []
    for word in words:
        if rows.database.execute_sql("SELECT 1 FROM word WHERE text = %s", (word,)).fetchone():
            found.append("found")
        else:
            found.append("stored")
            store([word])
    return found


async def test_conflict_with_another_server_is_repeated(
    writer: PostgresWriter, cluster: Cluster, url: str
) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(url) as other:
        other.execute("INSERT INTO word VALUES ('lead')")
        write = submit_and_wait(writer, find_or_store, "lead")
        await until(lambda: cluster.query(waiting))
        other.commit()
        assert await write == "found"
    assert words(url) == ["lead"]


async def test_deadlock_with_another_server_is_repeated(
    writer: PostgresWriter, cluster: Cluster, url: str
) -> None:
    attempts: list[str] = []
    has_first = threading.Event()

    def touch(items: Sequence[str]) -> Sequence[str]:
        attempts.extend(items)
        rows.database.execute_sql("UPDATE word SET times = times + 1 WHERE text = 'a'")
        has_first.set()
        rows.database.execute_sql("UPDATE word SET times = times + 1 WHERE text = 'b'")
        return items

    await asyncio.gather(*(submit_and_wait(writer, store, word) for word in ("a", "b")))
    # The other one never looks for deadlocks, so that it is not the one that is ended.
    cluster.query("ALTER ROLE leads SUPERUSER")
    try:
        with psycopg.connect(url, options="-c deadlock_timeout=1h") as other:
            other.execute("UPDATE word SET times = times + 1 WHERE text = 'b'")
            write = submit_and_wait(writer, touch, "lead")
            await until(has_first.is_set)
            await asyncio.to_thread(other.execute, "UPDATE word SET times = times + 1 WHERE text = 'a'")
            other.commit()
            assert await write == "lead"
    finally:
        cluster.query("ALTER ROLE leads NOSUPERUSER")
    assert len(attempts) > 1
    assert words(url, "times") == [3, 3]


async def test_commit_that_waits_does_not_delay_other_requests(harness: ServerHarness) -> None:
    async with held(harness):
        lead = asyncio.create_task(harness.lead())
        await until(lambda: harness.queue.unanswered > 1)
        assert (await harness.request("GET", "/livez")).code == 200
        assert not lead.done()
    assert await lead == 1


# ---- an outage


@pytest.mark.parametrize("end", [Cluster.stop, Cluster.kill])
async def test_C32_outage_is_503_until_it_ends(
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    clock: SteppedClock,
    end: Callable[[Cluster], None],
) -> None:
    harness = await start_harness(database_url=url, rate_limit="100000/1")
    await harness.building()
    await harness.lead(token="maple")
    await harness.settled()
    end(cluster)
    try:
        for _ in range(3):
            assert await refusal(harness) == NOT_STORED
        assert await readiness(harness, clock) == 503
        assert (await harness.request("GET", "/livez")).code == 200
    finally:
        cluster.start()
    await is_stored_again(harness)
    assert await readiness(harness, clock) == 200
    assert [d["state"] for d in await harness.settled(kind="email")] == ["delivered"] * 2
    assert len(harness.mail.mails) == 2


async def test_C32_database_that_is_down_at_the_start_is_waited_for(
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster.stop()
    try:
        harness = await start_harness(database_url=url)
        assert "waiting for the database" in caplog.text
        assert await refusal(harness) == NOT_STORED
        assert await readiness(harness, clock) == 503
    finally:
        cluster.start()
    while await readiness(harness, clock) != 200:
        await asyncio.sleep(0.05)
    await harness.building()
    assert await harness.lead(token="maple") == 1
    assert [d["state"] for d in await harness.settled(kind="email")] == ["delivered"]
    assert await readiness(harness, clock) == 200


def set_waits(patch: pytest.MonkeyPatch, lock: str, idle: str = "3s") -> None:
    """Let new connections wait so long for a lock, and be ended after so long in an idle transaction."""
    prepare = connection._PREPARE.replace("'lock_timeout', '5s'", f"'lock_timeout', '{lock}'")
    prepare = prepare.replace("_session_timeout', '3s'", f"_session_timeout', '{idle}'")
    patch.setattr(connection, "_PREPARE", prepare)


async def test_C32_readiness_names_no_host_and_the_log_the_reason(
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = await started(start_harness, url)
    cluster.stop()
    try:
        bodies = set()
        for _ in range(3):
            assert await readiness(harness, clock) == 503
            clock.step(5)
            bodies.add((await harness.request("GET", "/readyz")).body.decode())
        [body] = bodies
        assert "the database can't be used; the server's log says why" in body
        assert not re.search(r"127\.0\.0\.1|LEADS_|postgres|leads:|\d{4}", body, re.IGNORECASE)
        reasons = [r.__dict__["reason"] for r in records(caplog, "no lead can be stored")]
        assert len(reasons) == len(set(reasons)) and "LEADS_DATABASE_URL" in reasons[-1]
    finally:
        cluster.start()
    await is_stored_again(harness)
    assert await readiness(harness, clock) == 200


async def test_C32_row_that_another_transaction_holds_is_503(
    start_harness: StartHarness, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_waits(monkeypatch, lock="50ms")
    harness = await started(start_harness, url)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE lead")
        assert await refusal(harness) == NOT_STORED
    assert (await harness.post(LEAD)).code == 201
    assert len(await harness.leads()) == 1


def waits(name: str) -> float:
    """Return a wait that connections set, in seconds."""
    [text] = re.findall(rf"'{name}', '(\d+)s'", connection._PREPARE)
    return float(text)


async def test_C4_server_that_freezes_in_a_transaction_costs_no_lead(
    start_harness: StartHarness, cluster: Cluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waits("idle_in_transaction_session_timeout") < waits("lock_timeout") < STALLED_SECONDS
    harness = await started(start_harness, url)
    assert (await harness.post(LEAD)).code == 201
    set_waits(monkeypatch, lock="60s", idle="300ms")
    monkeypatch.setattr("models.storage.postgres.writer.STALLED_SECONDS", 60)
    cluster.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'leads'")
    frozen = await asyncio.to_thread(freeze)
    try:
        post = asyncio.create_task(harness.post(LEAD))
        await until(lambda: cluster.query("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        assert (await post).code == 201
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            frozen.execute("SELECT 1")
    finally:
        frozen.close()


def freeze() -> psycopg.Connection[Any]:
    """Return a connection of a server that does nothing more in a transaction that has each lead's rows."""
    frozen = connection.usable_connection()
    frozen.execute("BEGIN")
    frozen.execute("SELECT FROM customer FOR UPDATE")
    frozen.execute("LOCK TABLE lead IN SHARE MODE")
    return frozen


async def test_C32_check_waits_for_no_check_of_another_server(
    start_harness: StartHarness, url: str, clock: SteppedClock
) -> None:
    harness = await started(start_harness, url)
    with psycopg.connect(url) as other:
        for number in (1, 2, 3):
            sql = "INSERT INTO storage_check (id, checked_at) VALUES (%s, '')"
            other.execute(sql, [number])
        assert await readiness(harness, clock) == 200
        assert other.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert await harness.server.storage.read(StorageCheck.select().where(StorageCheck.id > 3).count) == 0


async def test_C32_start_waits_for_another_that_makes_the_tables(
    start_harness: StartHarness,
    url: str,
    clock: SteppedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_waits(monkeypatch, lock="50ms")
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATIONS])
        harness = await start_harness(database_url=url)
        assert await refusal(harness) == NOT_STORED
        assert await readiness(harness, clock) == 503
        [reason] = said(caplog)
        assert "another server makes or upgrades the tables" in reason
    while await readiness(harness, clock) != 200:
        await asyncio.sleep(0.05)
    await harness.building()
    assert await harness.lead(token="maple") == 1


def records(caplog: pytest.LogCaptureFixture, words: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if words in record.getMessage()]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the reasons for which the server has waited for the database."""
    return [record.__dict__["reason"] for record in records(caplog, "waiting for the database")]


async def test_C32_unforeseen_failure_of_the_start_is_tried_again(
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    clock: SteppedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def fail(keys: object) -> None:
        tried.append(1)
        raise ValueError("no secret")

    monkeypatch.setattr("server.REOPEN_SECONDS", 0.01)
    monkeypatch.setattr("server.check_secret", fail)
    cluster.stop()
    try:
        harness = await start_harness(database_url=url)
        await until(lambda: len(records(caplog, "waiting for the database")) == 1)
    finally:
        cluster.start()
    await until(lambda: len(tried) > 3)
    assert await refusal(harness) == NOT_STORED
    unforeseen = [r for r in records(caplog, "still waiting") if r.exc_info is not None]
    assert len(unforeseen) == 1 and "ValueError: no secret" in caplog.text
    monkeypatch.undo()
    while await readiness(harness, clock) != 200:
        await asyncio.sleep(0.05)


async def test_C32_same_reason_for_the_wait_is_logged_once(
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def fail(connection: object) -> None:
        tried.append(1)
        raise StorageError("closed for today")

    monkeypatch.setattr("server.REOPEN_SECONDS", 0.01)
    monkeypatch.setattr("models.storage.postgres.storage.migrate", fail)
    await start_harness(database_url=url)
    await until(lambda: len(tried) > 5)
    assert said(caplog) == ["closed for today"]


async def test_C32_database_that_hangs_is_503_until_it_goes_on(
    start_harness: StartHarness, cluster: Cluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.postgres.writer.STALLED_SECONDS", 0.3)
    harness = await started(start_harness, url)
    assert (await harness.post(LEAD)).code == 201
    cluster.pause()
    try:
        assert await refusal(harness) == NOT_STORED
    finally:
        cluster.resume()
    await is_stored_again(harness)
    leads = await harness.leads()
    assert all(lead["deal"] and lead["deliveries"] for lead in leads)


# ---- the outcome of a commit


class BrokenCommit:
    """A lead whose connection breaks while PostgreSQL commits it."""

    def __init__(self, harness: ServerHarness, cluster: Cluster, link: Link, url: str) -> None:
        self._harness, self._cluster, self._link = harness, cluster, link
        self._holding = psycopg.connect(url, autocommit=True)
        self._holding.execute(SLOW_COMMIT)

    async def begin(self) -> "asyncio.Task[Any]":
        """Send the lead, and cut the link once PostgreSQL commits. Return the request."""
        self._holding.execute(b"SELECT pg_advisory_lock(%d)" % LOCK)
        post = asyncio.create_task(self._harness.post(LEAD))
        await until(lambda: self._commits())
        self._link.cut("refused")
        return post

    def let_commit(self) -> None:
        self._holding.execute(b"SELECT pg_advisory_unlock(%d)" % LOCK)

    async def until_committed(self) -> None:
        self.let_commit()
        await until(self.lead_ids)

    def lead_ids(self) -> list[int]:
        """Return the ids of the stored leads, on a connection that does not go through the link."""
        return [row[0] for row in self._holding.execute("SELECT id FROM lead ORDER BY id")]

    def abort(self) -> None:
        [(process,)] = self._commits()
        self._cluster.query("SELECT pg_terminate_backend(%s, 10000)", process)

    def _commits(self) -> list[tuple[Any, ...]]:
        return self._cluster.query(
            "SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event_type = 'Lock'"
        )

    def close(self) -> None:
        self._holding.close()


@pytest.fixture
def broken_commit(
    io_loop: IOLoop,
    start_harness: StartHarness,
    cluster: Cluster,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[ServerHarness, BrokenCommit, Link]]:
    monkeypatch.setattr("models.storage.postgres.writer.STALLED_SECONDS", 0.5)
    with Link(cluster.port) as link:
        through_link = re.sub(r":\d+/", f":{link.port}/", url)
        harness = io_loop.run_sync(lambda: started(start_harness, through_link))
        broken = BrokenCommit(harness, cluster, link, url)
        yield harness, broken, link
        broken.close()
        link.mend()
        io_loop.run_sync(harness.server.storage.check)


Broken = tuple[ServerHarness, BrokenCommit, Link]


@NEEDS_ROOT
async def test_C32_commit_that_was_made_is_201(broken_commit: Broken) -> None:
    harness, broken, link = broken_commit
    post = await broken.begin()
    await broken.until_committed()
    link.mend()
    assert (await post).body == b'{"id": 1}'
    assert broken.lead_ids() == [1]


@NEEDS_ROOT
async def test_C32_commit_that_was_not_made_is_repeated(broken_commit: Broken) -> None:
    harness, broken, link = broken_commit
    post = await broken.begin()
    broken.abort()
    broken.let_commit()
    link.mend()
    response = await post
    assert response.code == 201
    assert broken.lead_ids() == [json.loads(response.body)["id"]]


@NEEDS_ROOT
@pytest.mark.parametrize("is_made", [True, False])
async def test_C32_commit_that_can_not_be_told_is_503(
    broken_commit: Broken, is_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "ASK_SECONDS", 0.5)
    harness, broken, link = broken_commit
    post = await broken.begin()
    if is_made:
        await broken.until_committed()
    else:
        broken.abort()
        broken.let_commit()
    response = await post
    assert (response.code, response.headers["Retry-After"]) == (503, "10")
    assert "the lead may be stored or not" in json.loads(response.body)["error"]
    assert not harness.server.storage.failed.is_set()  # the server goes on
    link.mend()
    await is_stored_again(harness)
    assert len(broken.lead_ids()) == 1 + is_made


# ---- what is refused


async def test_database_that_may_lose_commits_is_refused(
    start_harness: StartHarness, cluster: Cluster, url: str
) -> None:
    cluster.query("ALTER DATABASE leads SET synchronous_commit = off")
    with pytest.raises(DatabaseUnusable, match="synchronous_commit is off"):
        await start_harness(database_url=url)


async def test_server_with_another_secret_is_refused(start_harness: StartHarness, url: str) -> None:
    first = await started(start_harness, url, secret="the-first-secret-of-all")
    with pytest.raises(SettingError, match="the servers on this database have another secret"):
        await start_harness(database_url=url, secret="another-long-secret")
    assert (await first.post(LEAD)).code == 201


# ---- the clock


def test_clock_is_that_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = 1_000.0
    monkeypatch.setattr("models.storage.postgres.clock.time.monotonic", lambda: monotonic)
    clock = DatabaseClock()
    there = datetime(2020, 2, 2, tzinfo=UTC)  # what the machine says is of no matter
    clock.measured(there.timestamp(), monotonic - 4, monotonic - 2)  # half of the way back
    monotonic += 7
    assert (clock.now() - there).total_seconds() == 10


async def test_server_runs_by_the_clock_of_the_database(
    io_loop: IOLoop, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_database(url, "test")
    monkeypatch.setattr(database.clock, "_offset", 0.0)  # as if the machine's time were wrong by decades
    connection.usable_connection()
    try:
        assert abs((database.clock.now() - datetime.now(UTC)).total_seconds()) < 3_600
    finally:
        connection.close_database()


def test_clock_is_not_taken_from_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = 1_000.0
    monkeypatch.setattr("models.storage.postgres.clock.time.monotonic", lambda: monotonic)
    clock = DatabaseClock()
    there = datetime(2020, 2, 2, tzinfo=UTC)
    other = datetime(2021, 2, 2, tzinfo=UTC)
    clock.measured(there.timestamp(), monotonic - 60, monotonic)  # slow, and the first one
    assert clock.now() - there == timedelta(seconds=30)
    clock.measured(other.timestamp(), monotonic - LONGEST_SECONDS, monotonic)
    assert clock.now() - other == timedelta(seconds=0.5)
    before = clock.now(), clock.measured_at
    monotonic += 60
    clock.measured(there.timestamp(), monotonic - LONGEST_SECONDS - 0.01, monotonic)
    assert (clock.now() - timedelta(seconds=60), clock.measured_at) == before
