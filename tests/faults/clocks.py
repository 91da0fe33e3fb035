"""Fault runs of a clock that is set."""

import asyncio
import time
from contextlib import suppress

from fault_run import FaultRun, fault
from launched_server import LaunchedServer
from launcher import CLOCK
from lead_client import Disconnected, Ledger, post_lead

MOST_EXTRA_SECONDS = 10.0  # by which a clock that is set may delay a delivery


async def set_the_clock(run: FaultRun, seconds: float) -> None:
    """Move the time of day while a mail waits for its retry and a client is over its rate limit."""
    ledger, timeout = Ledger(), 9.0 if run.mutant else 60.0
    async with LaunchedServer(run, rate_limit="20/86400") as server:
        server.variables["FAULT_RETRY_SECONDS"] = "2"
        await server.start()
        for _ in range(run.times):
            server.mail.replies = ["451 later"]
            client = server.client()
            for number in range(20):
                with suppress(Disconnected):
                    await post_lead(client, ledger)
                if number == 0:
                    while server.mail.replies:
                        await asyncio.sleep(0.01)
            before = (await post_lead(client, Ledger())).status
            (run.folder / CLOCK).write_text(str(seconds))
            began = time.monotonic()
            after = await post_lead(client, Ledger())
            run.require(before == after.status == 429, "the rate limit does not move")
            run.require(86_000 > int(after.headers["retry-after"]) > 4_000, "Retry-After does not move")
            while len(server.mail.mails) < len(ledger.acknowledged) and time.monotonic() - began < timeout:
                await asyncio.sleep(0.02)
            run.recovery = time.monotonic() - began
            run.require_quick(run.recovery, 2 * 1.2 + MOST_EXTRA_SECONDS, "waiting mail is sent")
            run.tried += 1
            await client.close()
        while not server.log_lines("backed up") and time.monotonic() - began < timeout:
            await asyncio.sleep(0.02)
        run.require(server.log_lines("backed up"), "the backup that is due is made")
        arrived = [mail["Reply-To"] for mail in server.mail.mails]
        run.lost = sum(email not in arrived for email in ledger.acknowledged.values())
        run.duplicated = len(arrived) - len(set(arrived))


@fault(
    "clock-back", "the clock is set back by an hour", short=1, long=1, mutants=("does not monitor the clock",)
)
async def clock_back(run: FaultRun) -> None:
    await set_the_clock(run, -3600)


@fault(
    "clock-forth", "the clock is set on by an hour", short=1, long=1, mutants=("limits by the time of day",)
)
async def clock_forth(run: FaultRun) -> None:
    await set_the_clock(run, 3600)
