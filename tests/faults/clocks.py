"""Owns the trials of a clock that is set."""

import asyncio
import time
from contextlib import suppress

from fault_run import FaultRun, fault
from launcher import CLOCK
from load_clients import Gone, Ledger, ServerProcess, post_lead

MOST_SECONDS = 10.0  # how much longer than it had to a delivery may wait because the clock was set


async def set_the_clock(trial: FaultRun, seconds: float) -> None:
    """Set the time of day by so much while a mail waits for its retry and one address is over its limit."""
    ledger, patience = Ledger(), 9.0 if trial.mutant else 60.0
    async with ServerProcess(trial, rate_limit="20/86400") as box:
        box.variables["TRIAL_RETRY_SECONDS"] = "2"
        await box.start()
        for _ in range(trial.times):
            box.mail.replies = ["451 later"]
            client = box.client()
            for number in range(20):
                with suppress(Gone):
                    await post_lead(client, ledger)
                if number == 0:
                    while box.mail.replies:
                        await asyncio.sleep(0.01)
            before = (await post_lead(client, Ledger())).status
            (trial.folder / CLOCK).write_text(str(seconds))
            began = time.monotonic()
            after = await post_lead(client, Ledger())
            trial.require(before == after.status == 429, "the limit is unmoved")
            trial.require(86_000 > int(after.headers["retry-after"]) > 4_000, "so is the time to wait for it")
            while len(box.mail.mails) < len(ledger.acknowledged) and time.monotonic() - began < patience:
                await asyncio.sleep(0.02)
            trial.recovery = time.monotonic() - began
            trial.require_quick(trial.recovery, 2 * 1.2 + MOST_SECONDS, "what waits leaves")
            trial.tried += 1
            await client.close()
        while not box.log_lines("backed up") and time.monotonic() - began < patience:
            await asyncio.sleep(0.02)
        trial.require(box.log_lines("backed up"), "a backup that is due is made")
        arrived = [mail["Reply-To"] for mail in box.mail.mails]
        trial.lost = sum(email not in arrived for email in ledger.acknowledged.values())
        trial.duplicated = len(arrived) - len(set(arrived))


@fault("clock-back", "the clock is set back by an hour", short=1, long=1, mutants=("has no watchdog",))
async def clock_back(trial: FaultRun) -> None:
    await set_the_clock(trial, -3600)


@fault(
    "clock-forth", "the clock is set on by an hour", short=1, long=1, mutants=("limits by the time of day",)
)
async def clock_forth(trial: FaultRun) -> None:
    await set_the_clock(trial, 3600)
