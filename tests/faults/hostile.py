"""Fault runs of hostile clients: each costs its own time, and none of the renters' leads."""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from attackers import TOKENS, Told, poisoned_key
from fault_run import FaultRun, fault
from launched_server import LaunchedServer, cpu_seconds, peak_memory
from lead_client import Disconnected, Ledger, new_email, post_lead
from stored_leads import judge_storage, stored_leads

from handlers.connection_shares import MAX_SHARE

ATTACKERS = Path(__file__).parent / "attackers.py"
RENTERS = [f"127.0.0.{n}" for n in range(10, 30)]  # each sends a lead a second
ANSWER_TIMEOUT_SECONDS = 10.0  # only a broken promise takes this long
# Of the attacker, of the renters, and other descriptors of the server, such as the database's.
MAX_CONNECTIONS = MAX_SHARE + len(RENTERS) + 40


@asynccontextmanager
async def attacker(name: str, port: int, size: int) -> AsyncIterator[Callable[[], Awaitable[Told]]]:
    """Start an attack, and end it with the block, at the latest. What is yielded ends it as well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ATTACKERS),
        name,
        str(port),
        str(size),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    async def stop() -> Told:
        stdin.close()
        told: Told = json.loads(await stdout.read())
        await process.wait()
        return told

    try:
        begun = await stdout.readline()
        assert begun == b"begun\n", begun
        yield stop
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Renters:
    """Renters at addresses of their own, of whom each sends one lead a second on a new connection."""

    def __init__(self, server: LaunchedServer, ledger: Ledger, *, keyed: bool) -> None:
        """keyed: each lead has the Idempotency-Key of its number."""
        self._server, self._ledger, self._keyed = server, ledger, keyed
        self._numbers = itertools.count()
        self.waits: list[float] = []  # seconds
        self.unanswered = 0

    async def post(self, seconds: int) -> None:
        """Send leads for so many seconds, and wait for the answers."""
        await asyncio.gather(*(self._post(at, seconds) for at in range(len(RENTERS))))

    async def _post(self, at: int, seconds: int) -> None:
        client = self._server.client(RENTERS[at])
        first = time.monotonic() + at / len(RENTERS)
        for second in range(seconds):
            await asyncio.sleep(max(0.0, first + second - time.monotonic()))
            key = {"Idempotency_Key": poisoned_key(next(self._numbers))} if self._keyed else {}
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                    await post_lead(client, self._ledger, new_email(), **key)
            except (Disconnected, TimeoutError):
                self.unanswered += 1
            self.waits.append(time.monotonic() - began)
            await client.close()


async def withstand(run: FaultRun, attack: str, unit_seconds: float, *answers: str) -> Told:
    """Attack a server while renters send it leads, and check the promises of every row.

    unit_seconds: of a processor, that a unit of the attack may take. answers: that the attacker may get.
    """
    ledger = Ledger()
    # In the short form a lead takes less, so the share of the attack shows.
    settings = {"rate_limit": f"{TOKENS}/300"} | ({} if run.timed else {"smtp_url": "", "june_homes_url": ""})
    lead_seconds = 0.020 if run.timed else 0.005
    async with LaunchedServer(run, None, **settings) as server:
        server.variables["FAULT_STRANGERS"] = "yes"
        await server.start()
        assert server.process
        pid = server.process.pid
        await server.first_answer(ledger)
        renters = Renters(server, ledger, keyed=attack == "poisoned-keys")
        async with attacker(attack, server.port, run.times) as stop:
            used, began = cpu_seconds(pid), time.monotonic()
            await renters.post(15 if run.timed else 3)
            connections = len(os.listdir(f"/proc/{pid}/fd"))
            used, spent = cpu_seconds(pid) - used, time.monotonic() - began
            told = await stop()
        ended = time.monotonic()
        await server.first_answer(ledger)
        run.recovered_since(ended)
        memory = peak_memory(pid) / 1e6
    run.tried, count = told["units"], len(renters.waits)
    for lead_id, email in told["leads"].items():
        ledger.acknowledge(int(lead_id), email)
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    p99 = sorted(renters.waits)[int(count * 0.99)]
    most = unit_seconds * run.tried + lead_seconds * count
    run.require(ledger.answers.keys() == {201} and not renters.unanswered, "each renter's lead is a 201")
    run.require_quick(p99, 0.250, "p99 of the renters")
    run.require_quick(run.recovery or 0.0, 1.0, "the server answers after the attack")
    run.require(memory < 150, f"the memory stays under 150 MB ({memory:.0f} MB were)")
    run.require(used <= most, f"under {most:.1f} s of a processor are taken ({used:.1f} s were)")
    run.require(connections < MAX_CONNECTIONS, f"an address has a share of connections ({connections} were)")
    run.require(told["answers"].keys() <= set(answers), f"the attacker is told {', '.join(answers)}")
    received = ", ".join(f"{n:,} × {answer}" for answer, n in sorted(told["answers"].items()))
    run.seen = (
        f"p99 {1000 * p99:.0f} ms, {memory:.0f} MB, {used / spent:.0%} of a processor; "
        f"the attacker got {received or 'nothing'}"
    )
    return told


@fault(
    "dripped-headers",
    "one address sends heads byte by byte, on a hundred connections",
    short=10,
    long=100,
    mutants=("searches the whole head again",),
)
async def dripped_headers(run: FaultRun) -> None:
    await withstand(run, "dripped-headers", 0.000_100, "closed")


@fault(
    "tiny-chunks",
    "one address sends bodies in chunks of one byte, before and over the rate limit",
    short=24,
    long=60,
    mutants=("counts no chunks",),
)
async def tiny_chunks(run: FaultRun) -> None:
    told = await withstand(run, "tiny-chunks", 0.010, "400", "404", "429", "closed")
    run.require(told["answers"].get("429", 0) > 20, "a body over the rate limit is refused after few chunks")


@fault(
    "long-boundary",
    "one address sends multipart bodies that are nearly all boundary",
    short=40,
    long=60,
    mutants=("searches for any boundary",),
)
async def long_boundary(run: FaultRun) -> None:
    await withstand(run, "long-boundary", 0.003, "400", "429", "431", "closed")


@fault(
    "many-connections",
    "one address opens connections, and sends nothing",
    short=3_000,
    long=10_000,
    mutants=("caps no address",),
)
async def many_connections(run: FaultRun) -> None:
    await withstand(run, "many-connections", 0.000_500, "closed")


@fault(
    "many-headers",
    "one address sends as many headers, and as long ones, as are taken, and no body",
    short=60,
    long=100,
    mutants=("takes any head",),
)
async def many_headers(run: FaultRun) -> None:
    told = await withstand(run, "many-headers", 0.005, "429", "431", "closed")
    run.require("431" in told["answers"], "a head beyond the limits is answered 431")


@fault(
    "poisoned-keys",
    "one address sends first the Idempotency-Keys that renters' leads will bear",
    short=60,
    long=300,
    mutants=("believes keys of strangers",),
)
async def poisoned_keys(run: FaultRun) -> None:
    told = await withstand(run, "poisoned-keys", 0.010, "201", "422", "429", "closed")
    run.require(len(told["leads"]) == run.times, "every key was taken before a renter sent it")
