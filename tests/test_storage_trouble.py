"""Storage failures: 503 with Retry-After, no partly stored lead, and recovery."""

import asyncio
import json
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from typing import Any

import apsw
import databases
import pytest
from command_line import ACTOR
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock, held, queued, until
from tornado.httpclient import HTTPResponse

from models import intake
from models.outbox.actions import pause
from models.storage import StorageError, submit_and_wait
from models.storage.sqlite.connection import WriteTransaction, database
from models.storage.sqlite.wal import Wal
from models.storage.sqlite.writer import Writer

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}

LOCK = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.sqlite("it is about the lock of the file; see test_postgresql_storage.py")
async def test_C32_locked_database_is_503_until_the_lock_ends(
    harness: ServerHarness, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.sqlite.connection.BUSY_TIMEOUT_SECONDS", 0.05)
    # Another process: SQLite's file locks do not conflict within one process.
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, str(harness.data_dir / "leads.db"), stdin=PIPE, stdout=PIPE
    )
    assert other.stdin and other.stdout
    await other.stdout.readline()
    response = await harness.post(LEAD)
    assert response.code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert json.loads(response.body) == {"error": "the server can't store leads now; the lead was not stored"}
    clock.step(2)
    assert (await harness.request("GET", "/readyz")).code == 503
    other.stdin.close()
    await other.wait()
    clock.step(2)
    assert (await harness.request("GET", "/readyz")).code == 200
    assert (await harness.post(LEAD)).body == b'{"id": 1}'


async def test_C32_full_disk_is_503_and_stores_nothing(harness: ServerHarness) -> None:
    await submit_and_wait(harness.server.storage, databases.limit_space, 10)
    answers: list[HTTPResponse] = []
    while not answers or answers[-1].code == 201:
        body = {
            **LEAD,
            "tour_request": {"requestor_email": f"{len(answers)}@renter.test", "message": "m" * 10_000},
        }
        answers.append(await harness.post(body))
    assert answers[-1].code == 503
    assert int(answers[-1].headers["Retry-After"]) >= 1
    leads = await harness.leads()
    assert len(leads) == len(answers) - 1
    assert all(lead["deal"] and lead["deliveries"] for lead in leads)
    await submit_and_wait(harness.server.storage, databases.limit_space, None)
    assert (await harness.post(LEAD)).code == 201


@pytest.mark.sqlite("the disk of PostgreSQL may be another machine's")
async def test_readyz_fails_without_disk_space_for_a_whole_lead(
    harness: ServerHarness, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("models.storage.sqlite.storage_check.ROOM_FOR_A_LEAD", 2**62)  # more than any disk has
        response = await harness.request("GET", "/readyz")
        assert (response.code, response.headers["Retry-After"]) == (503, "5")
        said = json.loads(response.body)["error"]
        assert said.startswith("no lead can be stored now: the disk has ")
        assert str(harness.data_dir) not in said
        assert (await harness.post(LEAD)).code == 201  # a lead that fits is still accepted
    clock.step(2)
    assert (await harness.request("GET", "/readyz")).code == 200


async def test_C32_too_many_waiting_writes_are_503_with_retry_after(start_harness: StartHarness) -> None:
    # No destinations: the claims of their workers would be queued too.
    harness = await start_harness(rate_limit="100000/1", smtp_url="", june_homes_url="")
    await harness.building()
    harness.queue._queue_size = 10
    async with held(harness):
        posts = [asyncio.ensure_future(harness.post(LEAD)) for _ in range(30)]
        while sum(post.done() for post in posts) < 21:
            await asyncio.sleep(0.005)
        refused = [post.result() for post in posts if post.done()]
    assert {r.code for r in refused} == {503}
    assert {r.headers["Retry-After"] for r in refused} == {"1"}
    codes = [(await post).code for post in posts]
    assert (codes.count(201), codes.count(503)) == (len(await harness.leads()), len(refused))
    assert (await harness.post(LEAD)).code == 201


async def test_C32_unexpected_error_is_500_without_internal_details(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("handlers.api.leads.decode_body", fail)
    response = await harness.post(LEAD, Origin="https://maple.test")
    assert response.code == 500
    request_id = response.headers["X-Request-Id"]
    said = f"the server failed; its log has the details under request {request_id}"
    assert json.loads(response.body) == {"error": said}
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert any(getattr(record, "request", "") == request_id for record in caplog.records)


async def test_bad_row_fails_alone_within_its_batch(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = intake._lead_row

    def poisoned(submission: intake.Submission, *rest: Any) -> dict[str, Any]:
        row = real(submission, *rest)
        return {**row, "property_type": None} if submission.message == "poison" else row  # NOT NULL fails

    monkeypatch.setattr(intake, "_lead_row", poisoned)
    messages = ["good", "poison", "good", "poison", "good"]
    leads = [
        {**LEAD, "tour_request": {"requestor_email": f"{n}@renter.test", "message": message}}
        for n, message in enumerate(messages)
    ]
    async with held(harness):  # so that the writer commits them as one batch
        posts = [asyncio.ensure_future(harness.post(lead)) for lead in leads]
        await queued(harness, len(posts))
    codes = [(await post).code for post in posts]
    assert codes == [201, 500, 201, 500, 201]
    stored = await harness.leads()
    assert [lead["message"] for lead in stored] == ["good"] * 3
    assert len({lead["customer"]["email"] for lead in stored}) == 3


@pytest.mark.sqlite("only SQLite traces statements in its clients; they are the same")
async def test_batch_uses_one_insert_for_each_table(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []

    await harness.change(
        lambda: pause(ACTOR, "email", harness.clock.now())
    )  # else the trace would include the dispatcher's writes

    def trace(items: Sequence[None]) -> Sequence[None]:  # in the thread that may use the connection now
        database.connection().trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
        return items

    await submit_and_wait(harness.server.storage, trace, None)
    async with held(harness):
        posts = [
            asyncio.ensure_future(harness.post(LEAD)) for _ in range(32)
        ]  # a power of two is one statement per table
        await queued(harness, len(posts))
    assert {(await post).code for post in posts} == {201}
    inserts = [sql.split('"')[1] for sql in statements if sql.startswith("INSERT")]
    assert inserts == ["customer", "lead", "deal", "delivery"]


async def test_write_is_committed_after_its_client_disconnects(harness: ServerHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    body = json.dumps(LEAD).encode()
    head = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with held(harness):
        writer.write(head.encode() + body)
        await queued(harness, 1)
        writer.close()
        await writer.wait_closed()
    assert await harness.lead(token="maple") == 2


@pytest.mark.sqlite("the writer of PostgreSQL is never on the loop's thread")
async def test_slow_disk_does_not_delay_other_requests(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, begun, answered = WriteTransaction.commit, threading.Event(), threading.Event()

    def slowly(transaction: WriteTransaction) -> None:
        time.sleep(0.05)
        commit(transaction)

    def after_another_response(transaction: WriteTransaction) -> None:
        begun.set()
        assert answered.wait(10), "the commit blocks the event loop"
        commit(transaction)

    monkeypatch.setattr(WriteTransaction, "commit", slowly)
    await harness.lead()
    monkeypatch.setattr(WriteTransaction, "commit", after_another_response)
    lead = asyncio.create_task(harness.lead())
    await until(begun.is_set)
    assert (await harness.request("GET", "/livez")).code == 200
    assert not lead.done()
    answered.set()
    assert await lead == 2


@pytest.mark.sqlite("PostgreSQL keeps its own log")
async def test_long_wal_is_checkpointed(harness: ServerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = harness.data_dir / "leads.db-wal"
    for number in range(20):
        await harness.lead(requestor_email=f"{number}@renter.test")
    grown = wal.stat().st_size
    monkeypatch.setattr("models.storage.sqlite.wal.CHECKPOINT_PAGES", 1)
    assert isinstance(harness.queue, Writer)
    monkeypatch.setattr(harness.queue._wal, "_checkpoint_at", 1)
    for number in range(100):
        await harness.lead(requestor_email=f"more-{number}@renter.test")
    assert wal.stat().st_size < 2 * grown


@pytest.mark.sqlite("PostgreSQL keeps its own log")
async def test_failed_checkpoint_loses_no_lead(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(wal: Wal) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(Wal, "checkpoint", fail)
    assert isinstance(harness.queue, Writer)
    monkeypatch.setattr(harness.queue._wal, "_checkpoint_at", 1)
    assert [await harness.lead() for _ in range(3)] == [1, 2, 3]
    assert "the journal can't be moved into the database" in caplog.text


async def test_server_stops_with_a_full_queue(harness: ServerHarness) -> None:
    async with held(harness):
        lead = asyncio.create_task(harness.post(LEAD))
        await until(lambda: harness.server._in_flight)
        await queued(harness, 1)
        harness.queue._queue_size = 0
        restarting = asyncio.create_task(harness.restart())
        await asyncio.sleep(0.05)
    await restarting
    assert (await lead).code == 201


async def test_C32_failed_read_of_buildings_is_503(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: Any) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(harness.server.storage, "read", fail)
    response = await harness.post(LEAD, Origin="https://unknown.test")
    assert (response.code, response.headers["Retry-After"]) == (503, "5")
