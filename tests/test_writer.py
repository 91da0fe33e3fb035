"""What the writer promises: one commit for what has queued up, and which write waits for which."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import until
from tornado.ioloop import IOLoop

from models.database import WriteTransaction, database
from models.journal import Journal
from models.writer import Overloaded, Writer

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
        seen.append(_words()[sum(map(len, seen)) :])

    monkeypatch.setattr(WriteTransaction, "commit", noted)
    return seen


def _words() -> Noted:
    return [text for (text,) in database.execute_sql("SELECT text FROM word ORDER BY rowid")]


def store(words: Sequence[str]) -> list[int]:
    for word in words:
        database.execute_sql("INSERT INTO word VALUES (?)", (word,))
    return [len(word) for word in words]


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
        monkeypatch.setattr("models.writer.QUICK_COMMIT_SECONDS", 0)

    async def is_at_work(self) -> None:
        await until(self.at_work.is_set)
        self.at_work.clear()

    def let_through(self) -> None:
        self._free.set()


async def test_what_comes_at_once_is_one_commit(writer: Writer, commits: list[Noted]) -> None:
    assert await asyncio.gather(*(writer.write(store, word) for word in ("a", "bc", "d"))) == [1, 2, 1]
    assert commits == [["a", "bc", "d"]]


async def test_a_patient_write_is_written_along_with_one_that_is_not(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.writer.PATIENCE_SECONDS", 600)
    patient = writer.write(store, "mail", patient=True)
    await asyncio.sleep(0.05)
    assert not patient.done()
    await writer.write(store, "lead")
    assert await patient == 4
    assert commits == [["mail", "lead"]]


async def test_without_company_a_patient_write_is_written_all_the_same(
    writer: Writer, commits: list[Noted]
) -> None:
    assert await writer.write(store, "mail", patient=True) == 4


async def test_patience_counts_from_when_the_writer_is_free(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    first = writer.write(store, "lead")
    # A client that has its answer sends its next lead.
    first.add_done_callback(lambda _: second.append(writer.write(store, "next lead")))
    second: list[asyncio.Future[int]] = []
    await disk.is_at_work()
    patient = writer.write(store, "mail", patient=True)
    await asyncio.sleep(0.05)  # ten times as long as it is patient
    disk.let_through()
    await first
    await disk.is_at_work()
    disk.let_through()
    await asyncio.gather(patient, *second)
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
    writer.submit(store, "lead", lambda result, error: order.append("answered"))
    await disk.is_at_work()
    second = writer.write(store, "another")
    disk.let_through()
    await disk.is_at_work()
    assert order == ["begun", "begun", "answered"]
    disk.let_through()
    await second


async def test_on_a_slow_disk_a_crowd_is_not_waited_for_to_its_end(
    writer: Writer, commits: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, loop = Disk(monkeypatch), asyncio.get_running_loop()
    monkeypatch.setattr(writer, "_commit_seconds", 0.0001)
    writes = [writer.write(store, "first")]
    read_at = loop.time() + 0.001
    while loop.time() < read_at:
        pass  # the loop is busy: it reads what another has sent
    writes += [writer.write(store, "late"), writer.write(store, "later")]
    for _ in range(2):
        await disk.is_at_work()
        disk.let_through()
    await asyncio.gather(*writes)
    assert commits == [["first", "late"], ["later"]]


async def test_nothing_is_begun_while_the_journal_is_moved_by_the_same_connection(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_rest, overlaps = Journal.move_rest, []

    async def at_once(work: object) -> None:
        pass

    def slowly(journal: Journal) -> None:
        time.sleep(0.05)
        overlaps.append(writer._batch)
        move_rest(journal)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(Journal, "move_rest", slowly)
    writer._moving = asyncio.create_task(writer._move_most())
    await writer.write(store, "gathers when most is moved")
    await until(lambda: overlaps)
    moving = asyncio.create_task(writer._move_most())
    await moving
    await writer.write(store, "comes while the rest is moved")
    await until(lambda: len(overlaps) == 2)
    assert overlaps == [[], []]
    monkeypatch.undo()


async def test_a_journal_that_is_moved_all_the_time_is_in_nobodys_way(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.journal.JOURNAL_PAGES", 1)
    monkeypatch.setattr(writer._journal, "_most_pages", 1)
    moved: set[str] = set()

    def note(part: str) -> None:
        move = getattr(Journal, part)

        def noted(journal: Journal) -> None:
            move(journal)
            moved.add(part)

        monkeypatch.setattr(Journal, part, noted)

    note("move_most")
    note("move_rest")

    async def client() -> None:
        for _ in range(50):
            await writer.write(store, "lead")
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(8)))
    assert len(_words()) == 400
    assert moved == {"move_most", "move_rest"}


IS_LOCKED = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # where SQLite's readers lock it
    except OSError:
        print("locked")
"""


def is_locked(file: Path) -> bool:
    command = [sys.executable, "-c", IS_LOCKED, str(file)]
    return subprocess.run(command, capture_output=True, check=True).stdout == b"locked\n"


async def test_moving_the_journal_takes_no_lock_from_the_database(writer: Writer, tmp_path: Path) -> None:
    file = tmp_path / "leads.db"
    await writer.write(store, "lead")
    assert is_locked(file)
    await asyncio.to_thread(writer._journal.move_most)
    assert is_locked(file)
    file.open("rb").close()  # what it must not do
    assert not is_locked(file)


async def test_closing_writes_what_waits_for_company(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.writer.PATIENCE_SECONDS", 600)
    patient = writer.write(store, "mail", patient=True)
    await writer.close()
    assert await patient == 4


async def test_a_writer_that_is_full_says_so_at_once() -> None:
    writer = Writer(queue_size=0)
    with pytest.raises(Overloaded):
        writer.write(store, "lead")
