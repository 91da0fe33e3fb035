"""Owns the trials of a power cut: what the disk was told, put together as a cut at any moment leaves it.

What was written since a file's last fsync is dropped, or some of it kept, in pieces: a disk may do either.
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
class OneFile:
    """What the disk has of a file for certain, and what was written or cut since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[Any, ...]] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            apply(self.durable, change)
        self.pending.clear()

    def after_a_cut(self, chances: random.Random | None) -> bytes:
        """The content as it is found; with chances, some of what was pending is there as well."""
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
    """Write or truncate."""
    if change[0] == "truncate":
        del content[change[1] :]
        return
    _, offset, data = change
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


class Replay:
    """The disk at any moment of a record."""

    def __init__(self) -> None:
        self.files: dict[str, OneFile] = {}
        self.answered: list[int] = []

    def place(self, name: str, content: bytes) -> None:
        """Have this file on the disk from before the record begins."""
        self.files[name] = OneFile(bytearray(content))

    def take(self, event: tuple[Any, ...]) -> None:
        """Go on by one event."""
        match event:
            case ("write", name, offset, data):
                self._file(name).pending.append(("write", offset, data))
            case ("truncate", name, size):
                self._file(name).pending.append(("truncate", size))
            case ("sync", name):
                self._file(name).sync()
            case ("unsynced", name):
                # The system forgets that these are still to be written, and will not do so again.
                self._file(name).pending.clear()
            case ("delete", name):
                self.files.pop(name, None)
            case ("answered", lead_id):
                self.answered.append(lead_id)

    def _file(self, name: str) -> OneFile:
        return self.files.setdefault(name, OneFile())

    def cut(self, folder: Path, chances: random.Random | None) -> None:
        """Put the disk as a power cut now leaves it into this folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, file in self.files.items():
            if name.startswith("leads.db"):
                (folder / name).write_bytes(file.after_a_cut(chances))


def cuts(events: list[tuple[Any, ...]]) -> Iterator[int]:
    """After which events to cut: of those between which no fsync lies, the last has the most answers, and
    the same disk, so it stands for all of them.
    """
    for at, event in enumerate(events):
        following = events[at + 1][0] if at + 1 < len(events) else "end"
        if following in ("sync", "unsynced", "delete", "end") or event[0] in ("sync", "delete"):
            yield at


async def record(server: LaunchedServer) -> None:
    """Have the server start with an empty disk, and keep a record of it."""
    server.variables["FAULT_DISK"] = "recorded"
    shutil.rmtree(server.data_dir)
    await server.command("building", "add", "--name=Maple", "--token=maple", "--agent-email=agent@maple.test")
    await server.start()


async def take_leads(server: LaunchedServer, ledger: Ledger, count: int) -> None:
    """Take so many more leads, and kill the server while it takes them."""
    clients = LoadClients(server, ledger, 8, keyed=True)
    await clients.reach(len(ledger.acknowledged) + count)
    await server.kill()
    await clients.stop()


def judge_cuts(run: FaultRun, folder: Path, ledger: Ledger, most: int) -> None:
    """Cut at so many moments of the record, each time in two ways, and look for what was answered before."""
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
                open_database(after)  # as a server's start does, whatever the moment
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
            run.require(keyed, "a lead is never there without the key that it came under")
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
    "an fsync fails and the system forgets what it was to write; later the power is cut",
    short=60,
    long=600,
    mutants=("goes on after a failed commit", "leaves the journal as it was"),
)
async def fsync_forgotten(run: FaultRun) -> None:
    for killed in (False, True):  # the server then stops by itself, or is killed before it can
        ledger, folder = Ledger(), run.folder / f"killed-{killed}"
        async with LaunchedServer(run, folder) as server:
            await record(server)
            clients = LoadClients(server, ledger, 8, keyed=True)
            await clients.reach(60)
            give_order(folder, fail="sync EIO", times=1, **({"then_die": 0} if killed else {}))
            await clients.reach(300)  # or until it is gone, as it should be
            status = await server.stop()
            run.require(killed or status == 74, f"a failed commit ends the process with 74, not {status}")
            await clients.stop()
            give_order(folder)
            # Somebody looks on, so that the journal isn't put away by whoever closes the database last.
            reader = apsw.Connection(str(server.data_dir / "leads.db"))
            reader.execute("SELECT count(*) FROM lead").get
            await server.start_again()
            await take_leads(server, ledger, 60)
            reader.close()
        judge_cuts(run, folder, ledger, run.times // 2)


@fault(
    "move-forgotten",
    "a reader cuts the moving of the journal short; of the rest an fsync fails and is forgotten",
    short=60,
    long=600,
    mutants=("goes on after a failed move", "moves the journal as it closes"),
)
async def move_forgotten(run: FaultRun) -> None:
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
        await clients.reach(400)  # or until it is gone, as it should be
        status = await server.exit_status()
        run.require(status == 74, f"a move whose fsync failed ends the process with 74, not {status}")
        await clients.stop()
        give_order(run.folder)
        await server.start_again()
        await take_leads(server, ledger, 60)
    judge_cuts(run, run.folder, ledger, run.times)
