"""Owns the trials of a process that is killed."""

import asyncio
import json
import time
from contextlib import suppress

from fault_run import FaultRun, fault
from load_clients import (
    Gone,
    Ledger,
    LoadClients,
    ServerProcess,
    judge_storage,
    lead_body,
    new_email,
    seeded,
    stored_leads,
)


@fault(
    "kill-9",
    "kill -9 at random instants under 16 clients",
    short=3,
    long=20,
    mutants=("answers before the commit",),
)
async def kill_9(trial: FaultRun) -> None:
    ledger, chances, slowest = Ledger(), seeded(trial), 0.0
    async with ServerProcess(trial) as box:
        for _ in range(trial.times):
            await box.start_again()
            crowd = LoadClients(box, ledger)
            await crowd.reach(len(ledger.acknowledged) + chances.randrange(1, 200))
            await asyncio.sleep(chances.random() / 50)
            killed_at = time.monotonic()
            await box.kill()
            await crowd.go_home()
            await box.start()
            await box.first_answer(ledger)
            slowest = max(slowest, time.monotonic() - killed_at)
            await box.kill()
            trial.tried += 1
    judge_storage(trial, ledger, stored_leads(box.data_dir / "leads.db"))
    trial.recovery = slowest
    trial.seen = f"{len(ledger.acknowledged)} leads acknowledged"


@fault(
    "retries",
    "kill -9 under clients that send again, with an Idempotency-Key, what they saw no answer to",
    short=2,
    long=20,
    mutants=("forgets keys",),
)
async def retries(trial: FaultRun) -> None:
    ledger, chances, slowest = Ledger(), seeded(trial), 0.0
    async with ServerProcess(trial) as box:
        home = asyncio.Event()

        async def insist(email: str) -> int:
            while True:
                client = box.client()
                with suppress(Gone):
                    answer = await client.post(
                        lead_body(email, listing_source="june_homes"), Idempotency_Key=email
                    )
                    ledger.answers[answer.status] += 1
                    if answer.status == 201:
                        await client.close()
                        return int(json.loads(answer.body)["id"])
                await client.close()
                await asyncio.sleep(0.02)

        async def click_twice_until_sent_home() -> None:
            while not home.is_set():
                email = new_email()
                # At once, so that they meet in one batch, and once more, so that they don't.
                for lead_id in (*await asyncio.gather(insist(email), insist(email)), await insist(email)):
                    ledger.acknowledge(lead_id, email)

        await box.start()
        visitors = [asyncio.create_task(click_twice_until_sent_home()) for _ in range(8)]
        for _ in range(trial.times):
            enough = len(ledger.acknowledged) + chances.randrange(1, 100)
            while len(ledger.acknowledged) < enough:
                await asyncio.sleep(0.002)
            killed_at = time.monotonic()
            await box.kill()
            await box.start()
            await box.first_answer(ledger)
            slowest = max(slowest, time.monotonic() - killed_at)
            trial.tried += 1
        home.set()
        await asyncio.gather(*visitors)
    judge_storage(trial, ledger, stored_leads(box.data_dir / "leads.db"))
    trial.require(trial.duplicated == 0, "a lead that is sent again under its key is one lead")
    trial.recovery = slowest
    trial.seen = f"{len(ledger.acknowledged)} leads, each sent three times and more"
