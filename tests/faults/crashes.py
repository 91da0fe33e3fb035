"""Owns the trials of a process that is killed."""

import asyncio
import json
import time
from contextlib import suppress

from fault_run import FaultRun, fault
from launched_server import LaunchedServer
from lead_client import Disconnected, Ledger, lead_body, new_email
from load_clients import LoadClients
from stored_leads import judge_storage, stored_leads


@fault(
    "kill-9",
    "kill -9 at random instants under 16 clients",
    short=3,
    long=20,
    mutants=("answers before the commit",),
)
async def kill_9(run: FaultRun) -> None:
    ledger, chances, slowest = Ledger(), run.seeded_random(), 0.0
    async with LaunchedServer(run) as server:
        for _ in range(run.times):
            await server.start_again()
            clients = LoadClients(server, ledger)
            await clients.reach(len(ledger.acknowledged) + chances.randrange(1, 200))
            await asyncio.sleep(chances.random() / 50)
            killed_at = time.monotonic()
            await server.kill()
            await clients.stop()
            await server.start()
            await server.first_answer(ledger)
            slowest = max(slowest, time.monotonic() - killed_at)
            await server.kill()
            run.tried += 1
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.recovery = slowest
    run.seen = f"{len(ledger.acknowledged)} leads acknowledged"


@fault(
    "retries",
    "kill -9 under clients that send again, with an Idempotency-Key, what they saw no answer to",
    short=2,
    long=20,
    mutants=("forgets keys",),
)
async def retries(run: FaultRun) -> None:
    ledger, chances, slowest = Ledger(), run.seeded_random(), 0.0
    async with LaunchedServer(run) as server:
        home = asyncio.Event()

        async def insist(email: str) -> int:
            while True:
                client = server.client()
                with suppress(Disconnected):
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

        await server.start()
        visitors = [asyncio.create_task(click_twice_until_sent_home()) for _ in range(8)]
        for _ in range(run.times):
            enough = len(ledger.acknowledged) + chances.randrange(1, 100)
            while len(ledger.acknowledged) < enough:
                await asyncio.sleep(0.002)
            killed_at = time.monotonic()
            await server.kill()
            await server.start()
            await server.first_answer(ledger)
            slowest = max(slowest, time.monotonic() - killed_at)
            run.tried += 1
        home.set()
        await asyncio.gather(*visitors)
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.require(run.duplicated == 0, "a lead that is sent again under its key is one lead")
    run.recovery = slowest
    run.seen = f"{len(ledger.acknowledged)} leads, each sent three times and more"
