"""Fault runs of a power cut: a recorded disk is put together again as it is after a cut at any moment.

Writes since a file's last fsync are dropped, or some sectors of them are kept: a disk may do either.
"""

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from disk import give_order, read_record
from fault_run import FaultRun, fault, spread
from launched_server import LaunchedServer
from lead_client import Ledger
from load_clients import LoadClients
from peewee import DatabaseError
from stored_leads import judge_storage, stored_leads

from models.storage import DatabaseUnusable
from models.storage.sqlite.connection import close_database
from models.storage.sqlite.folder import open_database
from models.storage.sqlite.wal import recover_wal

SECTOR = 512

Write = tuple[int, bytes]


@dataclass
class RecordedFile:
    """The durable content of a file, and the changes since its last fsync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[Any, ...]] = field(default_factory=list)

    def sync(self) -> None:
        """Make all changes durable."""
        for change in self.pending:
            apply(self.durable, change)
        self.pending.clear()

    def after_a_cut(self, chances: random.Random | None) -> bytes:
        """Return the content after a power cut. chances: by which some of the pending changes are kept."""
        content = bytearray(self.durable)
        for change in self.pending if chances else ():
            if change[0] == "truncate":
                if chances and chances.random() < 0.5:
                    apply(content, change)
                continue
            _, offset, data = change
            for at in range(0, len(data), SECTOR):
                if chances and chances.random() < 0.5:
                    apply(content, ("write", offset + at, data[at : at + SECTOR]))
        return bytes(content)


def apply(content: bytearray, change: tuple[Any, ...]) -> None:
    """Apply a ("write", offset, bytes) or a ("truncate", size)."""
    if change[0] == "truncate":
        del content[change[1] :]
        return
    _, offset, data = change
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


class Replay:
    """The disk as it is after the events of a record, one by one."""

    def __init__(self) -> None:
        self.files: dict[str, RecordedFile] = {}
        self.answered: list[int] = []

    def place(self, name: str, content: bytes) -> None:
        """Add a file that was on the disk before the record began."""
        self.files[name] = RecordedFile(bytearray(content))

    def take(self, event: tuple[Any, ...]) -> None:
        """Apply the next event."""
        match event:
            case ("write", name, offset, data):
                self._file(name).pending.append(("write", offset, data))
            case ("truncate", name, size):
                self._file(name).pending.append(("truncate", size))
            case ("sync", name):
                self._file(name).sync()
            case ("unsynced", name):
                # The system marks the pages clean although they were not written, and drops them.
                self._file(name).pending.clear()
            case ("delete", name):
                self.files.pop(name, None)
            case ("answered", lead_id):
                self.answered.append(lead_id)

    def _file(self, name: str) -> RecordedFile:
        return self.files.setdefault(name, RecordedFile())

    def cut(self, folder: Path, chances: random.Random | None) -> None:
        """Write the files as a power cut at this moment leaves them into this folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, file in self.files.items():
            if name.startswith("leads.db"):
                (folder / name).write_bytes(file.after_a_cut(chances))


def cuts(events: list[tuple[Any, ...]]) -> Iterator[int]:
    """Yield the events after which to cut.

    Of events with no fsync between them, the last: the disk is the same, and most leads are answered.
    """
    for at, event in enumerate(events):
        following = events[at + 1][0] if at + 1 < len(events) else "end"
        if following in ("sync", "unsynced", "delete", "end") or event[0] in ("sync", "delete"):
            yield at


async def record(server: LaunchedServer) -> None:
    """Start the server on an empty disk, with a record of it."""
    server.variables["FAULT_DISK"] = "recorded"
    shutil.rmtree(server.data_dir)
    await server.command("building", "add", "--name=Maple", "--token=maple", "--agent-email=agent@maple.test")
    await server.start()


async def take_leads(server: LaunchedServer, ledger: Ledger, count: int) -> None:
    """Post so many more leads, and kill the server under load."""
    clients = LoadClients(server, ledger, 8, keyed=True)
    await clients.reach(len(ledger.acknowledged) + count)
    await server.kill()
    await clients.stop()


def judge_cuts(run: FaultRun, folder: Path, ledger: Ledger, most: int) -> None:
    """Cut at so many moments of the record, with and without pending writes, and compare with the ledger."""
    events = list(read_record(folder))
    moments = list(cuts(events))
    chosen = {moments[at] for at in spread(most, len(moments))}
    replay, chances, after = Replay(), run.seeded_random(), folder / "after"
    for at, event in enumerate(events):
        replay.take(event)
        if at not in chosen or "leads.db" not in replay.files:
            continue
        promised = Ledger({i: ledger.acknowledged[i] for i in replay.answered if i in ledger.acknowledged})
        for way in (None, chances):
            replay.cut(after, way)
            began = time.monotonic()
            try:
                open_database(after)  # as at a server's start
                recover_wal()
            except (DatabaseUnusable, DatabaseError, apsw.Error) as error:
                run.lost += len(promised.acknowledged)
                run.require(False, f"a server starts after a cut ({error})")
                continue
            finally:
                with suppress(DatabaseError, apsw.Error):
                    close_database()
            run.recovered_since(began)
            stored = stored_leads(after / "leads.db")
            judge_storage(run, promised, stored)
            keyed = all(lead.keys == 1 for lead in stored.values())
            run.require(keyed, "no lead is stored without its Idempotency-Key")
            run.tried += 1
    syncs = sum(event[0] == "sync" for event in events)
    run.seen += f"{len(events)} operations, {syncs} fsyncs, {len(replay.answered)} leads answered; "


@fault(
    "power-loss",
    "power cuts: unsynced writes dropped, or some sectors of them kept",
    short=100,
    long=2_000,
    mutants=("synchronous is normal", "answers before the commit", "keeps keys in a later transaction"),
)
async def power_loss(run: FaultRun) -> None:
    ledger = Ledger()
    async with LaunchedServer(run) as server:
        await record(server)
        await take_leads(server, ledger, max(300, run.times))
    judge_cuts(run, run.folder, ledger, run.times)


@fault(
    "fsync-forgotten",
    "an fsync fails and the system drops its pages; later the power is cut",
    short=60,
    long=600,
    mutants=("goes on after a failed commit", "starts without a checkpoint"),
)
async def fsync_forgotten(run: FaultRun) -> None:
    for killed in (False, True):  # whether the server is killed before it can stop by itself
        ledger, folder = Ledger(), run.folder / f"killed-{killed}"
        async with LaunchedServer(run, folder) as server:
            await record(server)
            clients = LoadClients(server, ledger, 8, keyed=True)
            await clients.reach(60)
            give_order(folder, fail="sync EIO", times=1, **({"then_die": 0} if killed else {}))
            await clients.reach(300)  # or until the server has ended, as it must
            status = await server.exit_status()
            run.require(killed or status == 74, f"a failed commit ends the process with 74, not {status}")
            await clients.stop()
            give_order(folder)
            # A second connection, so that the launcher's is not the last one and leaves the WAL.
            reader = apsw.Connection(str(server.data_dir / "leads.db"))
            reader.execute("SELECT count(*) FROM lead").get
            await server.start_again()
            await take_leads(server, ledger, 60)
            reader.close()
        judge_cuts(run, folder, ledger, run.times // 2)


@fault(
    "checkpoint-forgotten",
    "a reader stops a checkpoint half-way; of the next one an fsync fails, and its pages are dropped",
    short=60,
    long=600,
    mutants=("goes on after a failed checkpoint", "checkpoints at close"),
)
async def checkpoint_forgotten(run: FaultRun) -> None:
    ledger = Ledger()
    async with LaunchedServer(run) as server:
        server.variables["FAULT_CHECKPOINT_PAGES"] = "200"
        await record(server)
        clients = LoadClients(server, ledger, 8, keyed=True)
        await clients.reach(20)
        reader = apsw.Connection(str(server.data_dir / "leads.db"))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM lead").get
        await clients.reach(120)
        give_order(run.folder, fail="sync EIO", times=1, file="leads.db")
        reader.close()
        await clients.reach(400)  # or until the server has ended, as it must
        status = await server.exit_status()
        run.require(status == 74, f"a failed checkpoint ends the process with 74, not {status}")
        await clients.stop()
        give_order(run.folder)
        await server.start_again()
        await take_leads(server, ledger, 60)
    judge_cuts(run, run.folder, ledger, run.times)
