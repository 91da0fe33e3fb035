"""What the writer promises: one commit for what has queued up, and which write waits for which."""

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

Noted = list[str]


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
def commits(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """What was written by each commit."""
    seen: list[Noted] = []
    commit = WriteTransaction.commit

    def noted(transaction: WriteTransaction) -> None:
        commit(transaction)
        seen.append(stored.copy())
        stored.clear()

    stored.clear()
    monkeypatch.setattr(WriteTransaction, "commit", noted)
    return seen


stored: Noted = []  # since the last commit


def store(words: Sequence[str]) -> list[int]:
    for word in words:
        database.execute_sql("INSERT INTO word VALUES (?)", (word,))
        stored.append(word)
    return [len(word) for word in words]


def look(items: Sequence[None]) -> list[int]:
    """Writes nothing; how many words there are."""
    return [int(database.execute_sql("SELECT count(*) FROM word").fetchone()[0]) for _ in items]


class Disk:
    """Commits that take until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_work, self._free = threading.Event(), threading.Event()
        commit = WriteTransaction.commit

        def slowly(transaction: WriteTransaction) -> None:
            self.at_work.set()
            assert self._free.wait(30)
            self._free.clear()
            commit(transaction)

        monkeypatch.setattr(WriteTransaction, "commit", slowly)
        monkeypatch.setattr("models.storage.sqlite.batching.FAST_COMMIT_SECONDS", 0)

    async def is_at_work(self) -> None:
        await until(self.at_work.is_set)
        self.at_work.clear()

    def let_through(self) -> None:
        self._free.set()


async def test_what_comes_at_once_is_one_commit(writer: Writer, commits: list[Noted]) -> None:
    assert await asyncio.gather(*(submit_and_wait(writer, store, word) for word in ("a", "bc", "d"))) == [
        1,
        2,
        1,
    ]
    assert commits == [["a", "bc", "d"]]


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.sqlite.batching.FAST_COMMIT_SECONDS", 600)


async def test_of_one_that_comes_alone_it_is_known_at_once_that_it_is_written(
    writer: Writer, commits: list[Noted], quick_disk: None
) -> None:
    linger = submit_and_wait(writer, store, "mail", linger=True)
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    assert results == [4]
    assert commits == [["mail", "lead"]]
    assert await linger == 4


async def test_one_that_was_thought_to_come_alone_joins_those_that_are_there(
    writer: Writer, commits: list[Noted], quick_disk: None
) -> None:
    another = submit_and_wait(writer, store, "another")
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    assert results == []
    await another
    assert results == [4]
    assert commits == [["another", "lead"]]


async def test_one_that_comes_alone_waits_for_what_is_being_written(
    writer: Writer, commits: list[Noted], quick_disk: None
) -> None:
    another_program = apsw.Connection(database.database)
    another_program.execute("BEGIN IMMEDIATE")
    results: list[int] = []
    for word in ("lead", "next lead"):
        writer.submit(store, word, lambda result: results.append(result.get()), alone=True)
    assert results == []
    another_program.execute("ROLLBACK")
    another_program.close()
    await until(lambda: results == [4, 9])
    assert commits == [["lead"], ["next lead"]]


async def test_on_a_slow_disk_one_that_comes_alone_does_not_hold_the_loop_up(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    results: list[int] = []
    writer.submit(store, "lead", lambda result: results.append(result.get()), alone=True)
    await disk.is_at_work()
    assert results == []
    disk.let_through()
    await until(lambda: results == [4])


async def test_a_patient_write_is_written_along_with_one_that_is_not(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.sqlite.writer.LINGER_SECONDS", 600)
    linger = submit_and_wait(writer, store, "mail", linger=True)
    await asyncio.sleep(0.05)
    assert not linger.done()
    await submit_and_wait(writer, store, "lead")
    assert await linger == 4
    assert commits == [["mail", "lead"]]


async def test_without_company_a_patient_write_is_written_all_the_same(
    writer: Writer, commits: list[Noted]
) -> None:
    assert await submit_and_wait(writer, store, "mail", linger=True) == 4


async def test_patience_counts_from_when_the_writer_is_free(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    first = submit_and_wait(writer, store, "lead")
    # A client that has its answer sends its next lead.
    first.add_done_callback(lambda _: second.append(submit_and_wait(writer, store, "next lead")))
    second: list[asyncio.Future[int]] = []
    await disk.is_at_work()
    linger = submit_and_wait(writer, store, "mail", linger=True)
    await asyncio.sleep(0.05)  # ten times as long as it is linger
    disk.let_through()
    await first
    await disk.is_at_work()
    disk.let_through()
    await asyncio.gather(linger, *second)
    assert commits == [["lead"], ["mail", "next lead"]]


async def test_a_slow_disk_is_at_work_while_the_last_batch_is_answered(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, order = Disk(monkeypatch), []
    begin = WriteTransaction.begin

    def noted(transaction: WriteTransaction, *, wait: bool) -> bool:
        order.append("begun")
        return begin(transaction, wait=wait)

    monkeypatch.setattr(WriteTransaction, "begin", noted)
    writer.submit(store, "lead", lambda result: order.append("answered"))
    await disk.is_at_work()
    second = submit_and_wait(writer, store, "another")
    disk.let_through()
    await disk.is_at_work()
    assert order == ["begun", "begun", "answered"]
    disk.let_through()
    await second


async def test_on_a_slow_disk_a_crowd_is_not_waited_for_to_its_end(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, loop = Disk(monkeypatch), asyncio.get_running_loop()
    monkeypatch.setattr(writer._policy, "_commit_seconds", 0.0001)
    writes = [submit_and_wait(writer, store, "first")]
    read_at = loop.time() + 0.001
    while loop.time() < read_at:
        pass  # the loop is busy: it reads what another has sent
    writes += [submit_and_wait(writer, store, "late"), submit_and_wait(writer, store, "later")]
    for _ in range(2):
        await disk.is_at_work()
        disk.let_through()
    await asyncio.gather(*writes)
    assert commits == [["first", "late"], ["later"]]


@pytest.fixture
def moves(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each move of the journal, which is long after each commit, whether it was amid a batch."""
    seen: list[bool] = []
    move = Wal.checkpoint

    def noted(journal: Wal) -> None:
        seen.append(bool(writer._batch))
        move(journal)

    monkeypatch.setattr("models.storage.sqlite.wal.CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(writer._wal, "_checkpoint_at", 1)
    monkeypatch.setattr(Wal, "checkpoint", noted)
    return seen


async def test_the_journal_is_moved_between_two_batches(writer: Writer, moves: list[bool]) -> None:
    async def client() -> None:
        for _ in range(30):
            await submit_and_wait(writer, store, "lead")
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(8)))
    await until(lambda: len(moves) >= 30)
    assert not any(moves)
    assert await submit_and_wait(writer, look, None) == 8 * 30


async def test_a_journal_that_was_moved_is_not_moved_again_for_what_writes_nothing(
    writer: Writer, moves: list[bool]
) -> None:
    await submit_and_wait(writer, store, "lead")
    for _ in range(5):
        await submit_and_wait(writer, look, None)
    assert len(moves) == 1


async def test_after_a_commit_whose_outcome_is_unknown_the_journal_stays_where_it_is(
    writer: Writer, moves: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(transaction: WriteTransaction) -> None:
        transaction.roll_back()
        raise OutcomeUnknown("disk I/O error")

    monkeypatch.setattr(WriteTransaction, "commit", fail)
    monkeypatch.setattr(writer._wal, "_pages", 10)
    for error in (OutcomeUnknown, WriterStopped, WriterStopped):
        with pytest.raises(error):
            await submit_and_wait(writer, store, "lead")
    assert moves == []


async def test_closing_begins_nothing_where_there_is_nothing_to_write(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    lead = submit_and_wait(writer, store, "lead")
    await disk.is_at_work()
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0.05)
    disk.let_through()
    await closing
    assert await lead == 4
    assert commits == [["lead"]] and not disk.at_work.is_set()


async def test_closing_writes_what_waits_for_company(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.sqlite.writer.LINGER_SECONDS", 600)
    linger = submit_and_wait(writer, store, "mail", linger=True)
    await writer.close()
    assert await linger == 4


async def test_a_writer_that_is_full_says_so_at_once() -> None:
    writer = Writer(queue_size=0)
    with pytest.raises(Overloaded):
        submit_and_wait(writer, store, "lead")
