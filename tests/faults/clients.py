"""Fault runs of connections and addresses: slow, silent, or too many."""

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
from mutants import temporary_mutant
from stored_leads import judge_storage, stored_leads

from handlers.api.rate_limit import RateLimiter
from models.setting_values import Rate

PARTIAL_REQUEST = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"tour'


@asynccontextmanager
async def silent_connections(port: int, count: int) -> Any:
    """Open connections that each send another part of a request, and then nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(number: int) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(PARTIAL_REQUEST[: number % len(PARTIAL_REQUEST)])
            writers.append(writer)

    await asyncio.gather(*(connect(number) for number in range(count)))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


@fault(
    "slow-sockets",
    "connections that send half a request, or nothing, beside clients that send leads",
    short=100,
    long=500,
    mutants=("allows ten connections",),
)
async def slow_sockets(run: FaultRun) -> None:
    ledger, waits = Ledger(), []
    async with LaunchedServer(run) as server:
        await server.start()
        async with silent_connections(server.port, run.times):
            opened_at = time.monotonic()

            async def post_for_10_seconds() -> None:
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
                await asyncio.wait_for(asyncio.gather(*(post_for_10_seconds() for _ in range(8))), 12)
            run.require(len(waits) > run.times / 4, "other clients are served meanwhile")
            p99 = sorted(waits)[int(len(waits) * 0.99)] if waits else 60.0
            run.require_quick(p99, 0.250, "p99 of the other clients")
        mended_at = time.monotonic()
        await server.first_answer(ledger)
        run.recovery = time.monotonic() - mended_at
        await server.stop()
    run.tried = run.times
    run.seen = f"{len(waits)} leads meanwhile, p99 {1000 * p99:.0f} ms"
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))


@fault(
    "descriptors",
    "more clients than file descriptors, and then no descriptor left at all",
    short=2,
    long=10,
    mutants=("accepts as tornado does",),
)
async def descriptors(run: FaultRun) -> None:
    ledger, shares, lines = Ledger(), [], []
    async with LaunchedServer(run) as server:
        for none_left in (False, True):
            await server.start(limit_descriptors=100)
            assert server.process
            pid = server.process.pid
            await server.first_answer(ledger)
            if none_left:  # then the system refuses the next one
                count = len(os.listdir(f"/proc/{pid}/fd"))
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, 100))
            events = ("no more connections", "Exception in callback")
            logged, used, began = sum(map(server.log_lines, events)), cpu_seconds(pid), time.monotonic()
            async with silent_connections(server.port, 200):
                await asyncio.sleep(run.times)
                seconds = time.monotonic() - began
                shares.append((cpu_seconds(pid) - used) / seconds)
                lines.append((sum(map(server.log_lines, events)) - logged) / (seconds + 2))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100))
            mended_at = time.monotonic()
            await server.first_answer(ledger)
            run.recovered_since(mended_at)
            run.tried += 200
            await server.stop()
    run.require(0 < max(lines) <= 1, f"at most one log line a second ({max(lines):.1f} were)")
    run.require(max(shares) < 0.2, f"under 20 % of a processor ({max(shares):.0%} was)")
    run.seen = f"{max(shares):.1%} of a processor, {max(lines):.1f} log lines a second"
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))


@fault(
    "million-addresses",
    "a million source addresses, a thousand of them over the rate limit",
    short=800_000,
    long=1_000_000,
    mutants=("forgets all clients at the limit", "never forgets a client"),
)
async def million_addresses(run: FaultRun) -> None:
    with temporary_mutant(run.mutant):
        limiter, now = RateLimiter(Rate(300, 300)), 1_000_000_000_000
        over_limit = [ipaddress.ip_address(f"10.0.{n // 250}.{n % 250}") for n in range(1_000)]
        for address in over_limit:
            while limiter.take(address, now).allowed:
                pass
        longest, largest = 0.0, 0
        for number in range(run.times):
            address = ipaddress.IPv4Address(0x0B000000 + number)
            began = time.monotonic()
            limiter.take(address, now + number)
            longest = max(longest, time.monotonic() - began)
            run.tried += 1
            if number % 10_000 == 0:
                largest = max(largest, _size_of(limiter))
        largest, end = max(largest, _size_of(limiter)), now + run.times
        run.lost = sum(limiter.take(address, end).allowed for address in over_limit)
    began = time.monotonic()
    run.require(limiter.take(ipaddress.ip_address("192.0.2.1"), end).allowed, "a new address is allowed")
    run.recovery = time.monotonic() - began
    run.require(largest < 64e6, f"the rate limiter stays under 64 MB ({largest / 1e6:.0f} MB were)")
    run.require_quick(longest, 0.1, "no request waits for the limiter's cleanup")
    run.seen = f"{largest / 1e6:.1f} MB at most; the slowest call took {1000 * longest:.0f} ms"


def _size_of(limiter: RateLimiter) -> int:
    buckets = limiter._full_at
    return sys.getsizeof(buckets) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in buckets.items())
