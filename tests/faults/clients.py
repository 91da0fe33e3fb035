"""Owns the trials of clients: slow and silent ones, too many, ones that send garbage, ones that attack."""

import asyncio
import ipaddress
import os
import resource
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import Any

from conftest import LEADS
from fault_run import FaultRun, fault
from launched_server import LaunchedServer, cpu_seconds
from lead_client import Ledger, post_lead
from mutants import for_a_while
from stored_leads import judge_storage, stored_leads

from handlers.api.rate_limit import RateLimiter
from models.settings import Rate

HALF = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"tour'


@asynccontextmanager
async def silent(port: int, count: int) -> Any:
    """So many connections that send part of a request, each another part, and then nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(number: int) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HALF[: number % len(HALF)])
            writers.append(writer)

    await asyncio.gather(*(connect(number) for number in range(count)))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


@fault(
    "slow-sockets",
    "sockets that send half a request, or nothing, beside clients that send leads",
    short=100,
    long=500,
    mutants=("takes ten connections at once",),
)
async def slow_sockets(run: FaultRun) -> None:
    ledger, waits = Ledger(), []
    async with LaunchedServer(run) as server:
        await server.start()
        async with silent(server.port, run.times):
            opened_at = time.monotonic()

            async def visit() -> None:
                client = server.client()
                while time.monotonic() - opened_at < 10:  # then the server begins to close the silent ones
                    began = time.monotonic()
                    await post_lead(client, ledger)
                    waits.append(time.monotonic() - began)
                    if len(waits) >= 10 * run.times:
                        break
                    await asyncio.sleep(0.02)
                await client.close()

            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*(visit() for _ in range(8))), 12)
            run.require(len(waits) > run.times / 4, "others are served while they wait")
            p99 = sorted(waits)[int(len(waits) * 0.99)] if waits else 60.0
            run.require_quick(p99, 0.250, "p99 of the others")
        mended_at = time.monotonic()
        await server.first_answer(ledger)
        run.recovery = time.monotonic() - mended_at
        await server.stop()
    run.tried = run.times
    run.seen = f"{len(waits)} leads meanwhile, p99 {1000 * p99:.0f} ms"
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))


@fault(
    "descriptors",
    "more clients than the process has file descriptors for, and then not one left at all",
    short=2,
    long=10,
    mutants=("accepts as tornado does",),
)
async def descriptors(run: FaultRun) -> None:
    ledger, shares, lines = Ledger(), [], []
    async with LaunchedServer(run) as server:
        for taken in (False, True):
            await server.start(limit_descriptors=100)
            assert server.process
            pid = server.process.pid
            await server.first_answer(ledger)
            if taken:  # by whatever: then it is the system that refuses the next one
                count = len(os.listdir(f"/proc/{pid}/fd"))
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, 100))
            events = ("no more connections", "Exception in callback")
            said, used, began = sum(map(server.log_lines, events)), cpu_seconds(pid), time.monotonic()
            async with silent(server.port, 200):
                await asyncio.sleep(run.times)
                seconds = time.monotonic() - began
                shares.append((cpu_seconds(pid) - used) / seconds)
                lines.append((sum(map(server.log_lines, events)) - said) / (seconds + 2))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100))
            mended_at = time.monotonic()
            await server.first_answer(ledger)
            run.recovered_since(mended_at)
            run.tried += 200
            await server.stop()
    run.require(0 < max(lines) <= 1, f"one line of the log a second ({max(lines):.1f} were)")
    run.require(max(shares) < 0.2, f"under 20 % of a processor ({max(shares):.0%} was)")
    run.seen = f"{max(shares):.1%} of a processor, {max(lines):.1f} lines of the log a second"
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))


@fault(
    "million-addresses",
    "a million source addresses, a thousand of them over their limit",
    short=800_000,
    long=1_000_000,
    mutants=("forgets everyone when there are many", "forgets nobody"),
)
async def million_addresses(run: FaultRun) -> None:
    with for_a_while(run.mutant):
        throttle, now = RateLimiter(Rate(300, 300)), 1_000_000_000_000
        greedy = [ipaddress.ip_address(f"10.0.{n // 250}.{n % 250}") for n in range(1_000)]
        for address in greedy:
            while throttle.take(address, now).allowed:
                pass
        longest, largest = 0.0, 0
        for number in range(run.times):
            address = ipaddress.IPv4Address(0x0B000000 + number)
            began = time.monotonic()
            throttle.take(address, now + number)
            longest = max(longest, time.monotonic() - began)
            run.tried += 1
            if number % 10_000 == 0:
                largest = max(largest, _size_of(throttle))
        largest, end = max(largest, _size_of(throttle)), now + run.times
        run.lost = sum(throttle.take(address, end).allowed for address in greedy)
    began = time.monotonic()
    run.require(throttle.take(ipaddress.ip_address("192.0.2.1"), end).allowed, "a new one gets through")
    run.recovery = time.monotonic() - began
    run.require(largest < 64e6, f"the limiter stays under 64 MB ({largest / 1e6:.0f} MB were)")
    run.require_quick(longest, 0.1, "nobody waits for the limiter to forget others")
    run.seen = f"{largest / 1e6:.1f} MB at most; the slowest answer took {1000 * longest:.0f} ms"


def _size_of(throttle: RateLimiter) -> int:
    buckets = throttle._full_at
    return sys.getsizeof(buckets) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in buckets.items())
