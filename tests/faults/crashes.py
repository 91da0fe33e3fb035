"""Fault runs of a process that is killed."""

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
    "kill -9 at random moments under 16 clients",
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
    "kill -9 under clients that retry with an Idempotency-Key until they get an answer",
    short=2,
    long=20,
    mutants=("forgets idempotency keys",),
)
async def retries(run: FaultRun) -> None:
    ledger, chances, slowest = Ledger(), run.seeded_random(), 0.0
    async with LaunchedServer(run) as server:
        stopping = asyncio.Event()

        async def post_until_answered(email: str) -> int:
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

        async def post_each_lead_three_times() -> None:
            while not stopping.is_set():
                email = new_email()
                # Two at once, which share a batch, and one that comes later.
                pair = await asyncio.gather(post_until_answered(email), post_until_answered(email))
                for lead_id in (*pair, await post_until_answered(email)):
                    ledger.acknowledge(lead_id, email)

        await server.start()
        clients = [asyncio.create_task(post_each_lead_three_times()) for _ in range(8)]
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
        stopping.set()
        await asyncio.gather(*clients)
    judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.require(run.duplicated == 0, "requests with one key make one lead")
    run.recovery = slowest
    run.seen = f"{len(ledger.acknowledged)} leads, each sent at least three times"
