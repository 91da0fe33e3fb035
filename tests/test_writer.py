"""The writer: batches, lingering writes, writes on the loop's thread, checkpoints and closing."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import pytest
from conftest import until
from tornado.ioloop import IOLoop

from models.storage import OutcomeUnknown, Overloaded, WriterStopped, submit_and_wait
from models.storage.sqlite.connection import WriteTransaction, database
from models.storage.sqlite.wal import Wal
from models.storage.sqlite.writer import Writer

pytestmark = pytest.mark.sqlite("PostgreSQL has a writer of its own; see test_postgresql_storage.py")

Words = list[str]


@pytest.fixture
def writer(io_loop: IOLoop, tmp_path: Path) -> Iterator[Writer]:
    async def start() -> Writer:
        database.init(str(tmp_path / "leads.db"))
        database.connect()
        database.execute_sql("CREATE TABLE word (text)")
        writer = Writer()
        writer.start()
        return writer

    started: Writer = io_loop.run_sync(start)
    yield started
    if not database.is_closed():
        io_loop.run_sync(started.close)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[Words]:
    """The words stored by each commit, in order."""
    seen: list[Words] = []
    commit = WriteTransaction.commit

    def noted(transaction: WriteTransaction) -> None:
        commit(transaction)
        seen.append(stored.copy())
        stored.clear()

    stored.clear()
    monkeypatch.setattr(WriteTransaction, "commit", noted)
    return seen


stored: Words = []  # words stored since the last commit


def store(words: Sequence[str]) -> list[int]:
    for word in words:
        database.execute_sql("INSERT INTO word VALUES (?)", (word,))
        stored.append(word)
    return [len(word) for word in words]


def count_words(items: Sequence[None]) -> list[int]:
    """Write nothing; return the number of stored words for each item."""
    return [int(database.execute_sql("SELECT count(*) FROM word").fetchone()[0]) for _ in items]


class SlowDisk:
    """Slow disk: each commit blocks until the test releases it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self._released = threading.Event(), threading.Event()
        commit = WriteTransaction.commit

        def slowly(transaction: WriteTransaction) -> None:
            self.started.set()
            assert self._released.wait(30)
            self._released.clear()
            commit(transaction)

        monkeypatch.setattr(WriteTransaction, "commit", slowly)
        monkeypatch.setattr("models.storage.batching.FAST_COMMIT_SECONDS", 0)

    async def commit_started(self) -> None:
        await until(self.started.is_set)
        self.started.clear()

    def release(self) -> None:
        self._released.set()


async def test_writes_submitted_together_share_one_commit(writer: Writer, commits: list[Words]) -> None:
    assert await asyncio.gather(*(submit_and_wait(writer, store, word) for word in ("a", "bc", "d"))) == [
        1,
        2,
        1,
    ]
    assert commits == [["a", "bc", "d"]]


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.batching.FAST_COMMIT_SECONDS", 600)


async def test_lone_write_on_a_fast_disk_is_committed_synchronously(
    writer: Writer, commits: list[Words], fast_disk: None
) -> None:
    lingering = submit_and_wait(writer, store, "mail", linger=True)
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    assert results == [4]
    assert commits == [["mail", "lead"]]
    assert await lingering == 4


async def test_write_marked_alone_joins_the_queued_batch(
    writer: Writer, commits: list[Words], fast_disk: None
) -> None:
    another = submit_and_wait(writer, store, "another")
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    assert results == []
    await another
    assert results == [4]
    assert commits == [["another", "lead"]]


async def test_lone_write_waits_for_the_batch_before_it(
    writer: Writer, commits: list[Words], fast_disk: None
) -> None:
    other_connection = apsw.Connection(database.database)
    other_connection.execute("BEGIN IMMEDIATE")
    results: list[int] = []
    for word in ("lead", "next lead"):
        writer.submit(store, word, lambda result: results.append(result.get()), alone=True)
    assert results == []
    other_connection.execute("ROLLBACK")
    other_connection.close()
    await until(lambda: results == [4, 9])
    assert commits == [["lead"], ["next lead"]]


async def test_lone_write_on_a_slow_disk_does_not_block_the_loop(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    await disk.commit_started()
    assert results == []
    disk.release()
    await until(lambda: results == [4])


async def test_lingering_write_shares_the_next_commit(
    writer: Writer, commits: list[Words], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.write_queue.LINGER_SECONDS", 600)
    lingering = submit_and_wait(writer, store, "mail", linger=True)
    await asyncio.sleep(0.05)
    assert not lingering.done()
    await submit_and_wait(writer, store, "lead")
    assert await lingering == 4
    assert commits == [["mail", "lead"]]


async def test_lone_lingering_write_is_committed(writer: Writer, commits: list[Words]) -> None:
    assert await submit_and_wait(writer, store, "mail", linger=True) == 4


async def test_linger_starts_when_the_writer_becomes_idle(
    writer: Writer, commits: list[Words], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    first = submit_and_wait(writer, store, "lead")
    # A client that has received its response sends its next lead.
    first.add_done_callback(lambda _: second.append(submit_and_wait(writer, store, "next lead")))
    second: list[asyncio.Future[int]] = []
    await disk.commit_started()
    lingering = submit_and_wait(writer, store, "mail", linger=True)
    await asyncio.sleep(0.05)  # ten times LINGER_SECONDS
    disk.release()
    await first
    await disk.commit_started()
    disk.release()
    await asyncio.gather(lingering, *second)
    assert commits == [["lead"], ["mail", "next lead"]]


async def test_next_commit_starts_before_callbacks_on_a_slow_disk(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, order = SlowDisk(monkeypatch), []
    begin = WriteTransaction.begin

    def noted(transaction: WriteTransaction, *, wait: bool) -> bool:
        order.append("begun")
        return begin(transaction, wait=wait)

    monkeypatch.setattr(WriteTransaction, "begin", noted)
    writer.submit(store, "lead", lambda result: order.append("answered"))
    await disk.commit_started()
    second = submit_and_wait(writer, store, "another")
    disk.release()
    await disk.commit_started()
    assert order == ["begun", "begun", "answered"]
    disk.release()
    await second


async def test_slow_disk_commit_starts_before_all_writes_arrive(
    writer: Writer, commits: list[Words], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, loop = SlowDisk(monkeypatch), asyncio.get_running_loop()
    monkeypatch.setattr(writer._policy, "_commit_seconds", 0.0001)
    writes = [submit_and_wait(writer, store, "first")]
    busy_until = loop.time() + 0.001
    while loop.time() < busy_until:
        pass  # keep the loop busy, as if it read other requests
    writes += [submit_and_wait(writer, store, "late"), submit_and_wait(writer, store, "later")]
    for _ in range(2):
        await disk.commit_started()
        disk.release()
    await asyncio.gather(*writes)
    assert commits == [["first", "late"], ["later"]]


@pytest.fixture
def checkpoints(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each checkpoint: True if a batch was in progress. The WAL is due for one after each commit."""
    seen: list[bool] = []
    checkpoint = Wal.checkpoint

    def noted(wal: Wal) -> None:
        seen.append(bool(writer._batch))
        checkpoint(wal)

    monkeypatch.setattr("models.storage.sqlite.wal.CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(writer._wal, "_checkpoint_at", 1)
    monkeypatch.setattr(Wal, "checkpoint", noted)
    return seen


async def test_checkpoint_runs_between_two_batches(writer: Writer, checkpoints: list[bool]) -> None:
    async def client() -> None:
        for _ in range(30):
            await submit_and_wait(writer, store, "lead")
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(8)))
    await until(lambda: len(checkpoints) >= 30)
    assert not any(checkpoints)
    assert await submit_and_wait(writer, count_words, None) == 8 * 30


async def test_batches_without_writes_cause_no_further_checkpoint(
    writer: Writer, checkpoints: list[bool]
) -> None:
    await submit_and_wait(writer, store, "lead")
    for _ in range(5):
        await submit_and_wait(writer, count_words, None)
    assert len(checkpoints) == 1


async def test_no_checkpoint_after_a_commit_with_unknown_outcome(
    writer: Writer, checkpoints: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(transaction: WriteTransaction) -> None:
        transaction.roll_back()
        raise OutcomeUnknown("disk I/O error")

    monkeypatch.setattr(WriteTransaction, "commit", fail)
    monkeypatch.setattr(writer._wal, "_pages", 10)
    for error in (OutcomeUnknown, WriterStopped, WriterStopped):
        with pytest.raises(error):
            await submit_and_wait(writer, store, "lead")
    assert checkpoints == []


async def test_close_with_an_empty_queue_starts_no_commit(
    writer: Writer, commits: list[Words], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    lead = submit_and_wait(writer, store, "lead")
    await disk.commit_started()
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0.05)
    disk.release()
    await closing
    assert await lead == 4
    assert commits == [["lead"]] and not disk.started.is_set()


async def test_close_commits_lingering_writes(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.write_queue.LINGER_SECONDS", 600)
    lingering = submit_and_wait(writer, store, "mail", linger=True)
    await writer.close()
    assert await lingering == 4


async def test_full_queue_raises_overloaded_at_once() -> None:
    writer = Writer(queue_size=0)
    with pytest.raises(Overloaded):
        submit_and_wait(writer, store, "lead")
