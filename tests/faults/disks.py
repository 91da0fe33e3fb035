"""Fault runs of a disk that fails, is full or read-only, and of a locked database."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path

from disk import give_order
from fault_run import CannotTry, FaultRun, fault
from launched_server import LaunchedServer
from lead_client import Ledger
from load_clients import LoadClients
from stored_leads import judge_storage, stored_leads

LOCK = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(10_000)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


ENOUGH = 16  # false 201s, after which a run need not go on


async def post_until_refused(server: LaunchedServer, ledger: Ledger) -> None:
    """Post leads for half a second, and then until one is answered 503 or the server ends.

    A false 201 is found at the end of the run.
    """
    before, taken = ledger.answers[503], len(ledger.acknowledged)
    clients = LoadClients(server, ledger, 8, pause=0.005)
    with suppress(TimeoutError):
        await asyncio.wait_for(clients.reach(10**9), 0.5)
    while ledger.answers[503] == before and server.is_running and len(ledger.acknowledged) < taken + ENOUGH:
        await asyncio.sleep(0.05)
    await clients.stop()


BreakDisk = Callable[[], AbstractAsyncContextManager[None]]


async def ride_out(
    run: FaultRun, server: LaunchedServer, ledger: Ledger, break_disk: BreakDisk, *, ends: bool = False
) -> None:
    """Break the disk under clients, again and again, each time until the block of `break_disk` is left.

    ends: the server must stop with exit status 74; else it must go on.
    """
    await server.start()
    await server.first_answer(ledger)
    for _ in range(run.times):
        before = ledger.answers[503]
        async with break_disk():
            await post_until_refused(server, ledger)
            status = await server.exit_status(wait=ends)
        mended_at = time.monotonic()
        run.require(
            status == (74 if ends else None),
            f"the server ends only with 74, and only if it must (status {status})",
        )
        # A write other than a lead's may end the server; then no lead is answered.
        run.require(ends or ledger.answers[503] > before, "a lead that can't be stored is answered 503")
        run.tried += 1
        if run.broken:
            break
        if status is not None:
            await server.start_again()
        await server.first_answer(ledger)
        run.recovered_since(mended_at)
    await server.stop()
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.require_quick(run.recovery or 0.0, 10, "the server takes leads again")
    run.seen = f"{len(ledger.acknowledged)} answered 201, {ledger.answers[503]} answered 503"


async def ride_out_errors(run: FaultRun, error: str, *, ends: bool) -> None:
    """Fail every operation with this error, one of `disk.ERRORS`."""

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        give_order(run.folder, fail=error, times=10**6)
        yield
        give_order(run.folder)

    async with LaunchedServer(run) as server:
        server.variables["FAULT_DISK"] = "plain"
        await ride_out(run, server, Ledger(), failing, ends=ends)


SUCCESS = ("takes a failure for success",)


@fault("write-error", "I/O errors on every write", short=2, long=20, mutants=SUCCESS)
async def write_error(run: FaultRun) -> None:
    await ride_out_errors(run, "write EIO", ends=True)


@fault(
    "fsync-error",
    "I/O errors on every fsync",
    short=2,
    long=20,
    mutants=(*SUCCESS, "goes on after a failed commit"),
)
async def fsync_error(run: FaultRun) -> None:
    await ride_out_errors(run, "sync EIO", ends=True)


@fault("no-space", "every write fails for lack of space", short=2, long=20, mutants=SUCCESS)
async def no_space(run: FaultRun) -> None:
    await ride_out_errors(run, "write ENOSPC", ends=False)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small disk in memory on this folder. Raises CannotTry where that is not allowed."""
    folder.mkdir()
    options = f"size={megabytes}m"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "leads", str(folder)], capture_output=True)
    if done.returncode:
        raise CannotTry("this machine does not let this user mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@fault(
    "disk-full",
    "a small disk, full to its last byte",
    short=1,
    long=10,
    mutants=SUCCESS,
)
async def disk_full(run: FaultRun) -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        stack.enter_context(small_disk(run.folder / "data", 4))
        server = await stack.enter_async_context(LaunchedServer(run))
        ballast = server.data_dir / "ballast"

        @asynccontextmanager
        async def full() -> AsyncIterator[None]:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield
            client = server.client()
            ready = await client.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.close()
            run.require(ready.status == 503, "readyz is 503 while the disk is full")
            ballast.unlink()

        await ride_out(run, server, ledger, full)


@fault(
    "read-only",
    "a disk that is read-only at the start, or becomes so later",
    short=1,
    long=10,
    mutants=SUCCESS,
)
async def read_only(run: FaultRun) -> None:
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        stack.enter_context(small_disk(run.folder / "data", 64))
        server = await stack.enter_async_context(LaunchedServer(run))
        for _ in range(run.times):
            subprocess.run(["mount", "-o", "remount,ro", str(server.data_dir)], check=True)
            status, _ = await server.command("serve")
            run.require(status == 1, "the server does not start on a read-only disk")
            subprocess.run(["mount", "-o", "remount,rw", str(server.data_dir)], check=True)
        await server.start()
        await server.first_answer(ledger)
        await server.stop()
        judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    # The system refuses to make a disk read-only while a file on it is open for writing. Ours does it.
    await ride_out_errors(run, "write EROFS", ends=True)


@fault(
    "locked",
    "the database locked by another process for longer than the server waits",
    short=1,
    long=5,
    mutants=SUCCESS,
)
async def locked(run: FaultRun) -> None:
    ledger = Ledger()
    async with LaunchedServer(run) as server:

        @asynccontextmanager
        async def locked_by_another() -> AsyncIterator[None]:
            other = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                LOCK,
                str(server.data_dir / "leads.db"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert other.stdin and other.stdout
            await other.stdout.readline()
            taken = len(ledger.acknowledged)
            yield
            run.require(
                len(ledger.acknowledged) == taken, "no lead is acknowledged while the database is locked"
            )
            other.stdin.close()
            await other.wait()

        await ride_out(run, server, ledger, locked_by_another)
