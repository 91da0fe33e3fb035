"""Fault runs of the log: its reader stops reading, and comes back."""

import asyncio
import fcntl
import os
import re
import time

from fault_run import FaultRun, fault
from launched_server import LaunchedServer
from lead_client import Ledger
from load_clients import LoadClients
from stored_leads import judge_storage, stored_leads

PIPE_BYTES = 4096  # the least that a pipe holds
BYTES_PER_LEAD = 60  # that may wait for the reader: half of a lead's line, so that lines are lost
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ .+")
LOST = "log lines lost count="


class LogReader:
    """The reader of a server's log. It reads nothing until it is told to."""

    def __init__(self) -> None:
        self._descriptor, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.lines: list[str] = []
        self.has_read_loss = asyncio.Event()

    async def read(self) -> None:
        """Read until the server has closed its log."""
        stream = asyncio.StreamReader()
        loop, pipe = asyncio.get_running_loop(), os.fdopen(self._descriptor, "rb")
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        async for line in stream:
            self.lines.append(line.decode().removesuffix("\n"))
            if LOST in self.lines[-1]:
                self.has_read_loss.set()
        transport.close()

    def close(self) -> None:
        """Close the pipe, of which nothing was read."""
        os.close(self._descriptor)


@fault(
    "log-stalled",
    "the log's reader stops reading, and comes back or does not",
    short=200,
    long=5_000,
    mutants=("writes the log on the event loop",),
)
async def log_stalled(run: FaultRun) -> None:
    ledger, ends = Ledger(), []
    async with LaunchedServer(run) as server:
        server.variables["FAULT_LOG_BYTES"] = str(run.times * BYTES_PER_LEAD)
        for comes_back in (False, True):
            log = LogReader()
            await server.start(log=log.writer)
            os.close(log.writer)
            before = len(ledger.acknowledged)
            if not await _post_leads(run, server, ledger, before + run.times):
                log.close()
                return
            stalled, began = dict(list(ledger.acknowledged.items())[before:]), time.monotonic()
            if comes_back:
                reading = asyncio.create_task(log.read())
                async with asyncio.timeout(60):
                    await log.has_read_loss.wait()
                run.recovered_since(began)
            stopped = time.monotonic()
            run.require(await server.stop() == 0, "SIGTERM ends the server in order")
            ends.append(time.monotonic() - stopped)
            if comes_back:
                await reading
                lost = _judge(run, log.lines, stalled)
            else:
                log.close()
        judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.require_quick(max(ends), 5.0, "SIGTERM ends the server")
    run.seen = f"{lost} lines lost and counted; SIGTERM while it stalls took {ends[0]:.1f} s"


async def _post_leads(run: FaultRun, server: LaunchedServer, ledger: Ledger, count: int) -> bool:
    """Post leads until so many are acknowledged. Return False if the server stops answering."""
    clients = LoadClients(server, ledger, 8)
    try:
        async with asyncio.timeout(5 if run.mutant else 300):
            await clients.reach(count)
            await clients.stop()
    except TimeoutError:
        run.require(False, "leads are answered while nobody reads the log")
        await server.kill()
        await clients.stop()
        return False
    run.tried = count
    return True


def _judge(run: FaultRun, lines: list[str], stalled: dict[int, str]) -> int:
    """Check the lines that came at last, and return how many the server says were lost."""
    counts = [int(line.rpartition("=")[2]) for line in lines if LOST in line]
    logged = {
        int(match[1]) for line in lines if (match := re.search(r" answered .* lead=(\d+) status", line))
    }
    run.require(all(map(LINE.fullmatch, lines)), "each line is whole")
    run.require(len(counts) == 1, "one line says how many were lost")
    run.require(len(stalled.keys() - logged) <= sum(counts), "each line that is missing is counted")
    run.require(logged, "the lines before those are kept")
    run.require(lines and " stopped " in lines[-1], "the last line is of the stop")
    return sum(counts)
