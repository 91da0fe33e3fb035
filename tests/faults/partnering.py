"""Fault runs of the partner, June Homes: failing, refusing, or silent."""

import asyncio
from collections import Counter

from conftest import SteppedClock
from fault_run import FaultRun, fault
from mailing import TRUSTS_ATTEMPT, step_until_sent, stepped_harness
from mutants import Patch

import jobs.june_homes


async def ride_out(
    run: FaultRun, reply: tuple[int, dict[str, str]], *, says: str, most: float, tries: int | None = None
) -> None:
    """Give every request this reply, and then none, so that the partner works again.

    says: what the outbox must say meanwhile. most: seconds until all leads are sent. tries: how often the
    partner may be asked meanwhile.
    """
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.partner.replies = [reply] * 10_000
        ids = [
            await harness.lead(token="maple", requestor_email=f"{n}@renter.test", listing_source="june_homes")
            for n in range(run.times)
        ]
        rows = await harness.settled(kind="june_homes")
        destination = await harness.destination("june_homes")
        reasons = " ".join(filter(None, [destination["waits_because"], *(row["reason"] for row in rows)]))
        run.require(says in reasons, f"the outbox says {says!r}")
        asked = len(harness.partner.calls)
        if tries is not None:
            run.require(asked <= tries, "the partner is not asked again and again")
        mails = await harness.settled(kind="email", state="delivered")
        run.require(len(mails) == len(ids), "every mail is sent meanwhile")
        harness.partner.replies.clear()
        run.recovery = await step_until_sent(harness, clock, "june_homes", most)
        run.recovery_by_clock = True
        taken = Counter(headers["Webhook-Id"] for headers, _ in harness.partner.calls[asked:])
        run.lost = len(ids) - len(taken)
        run.duplicated = sum(taken.values()) - len(taken)
        run.require(run.duplicated == 0, "an accepted lead is not sent again")
        run.tried = len(ids)
        run.seen = f"asked {asked} times meanwhile"


@fault("june-500", "June Homes answers 500", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_500(run: FaultRun) -> None:
    await ride_out(run, (500, {}), says="answered 500", most=60)


@fault("june-429", "June Homes answers 429 with Retry-After", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_429(run: FaultRun) -> None:
    await ride_out(run, (429, {"Retry-After": "900"}), says="answered 429", most=1000, tries=4)


@fault("june-redirect", "June Homes answers with a redirect", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_redirect(run: FaultRun) -> None:
    await ride_out(run, (307, {"Location": "/leads"}), says="LEADS_JUNE_HOMES_URL", most=60, tries=4)


@fault("june-410", "June Homes answers 410", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_410(run: FaultRun) -> None:
    await ride_out(run, (410, {}), says="LEADS_JUNE_HOMES_URL", most=60, tries=4)


@fault(
    "june-timeout", "June Homes takes the lead and never answers", short=8, long=40, mutants=TRUSTS_ATTEMPT
)
async def june_timeout(run: FaultRun) -> None:
    await _no_answer(run, b"", says="no answer in time")


@fault(
    "june-garbage",
    "June Homes answers with bytes that are not HTTP",
    short=8,
    long=200,
    mutants=TRUSTS_ATTEMPT,
)
async def june_garbage(run: FaultRun) -> None:
    await _no_answer(run, b"\x00\xff garbage\r\n\r\n" * 10, says="")


async def _no_answer(run: FaultRun, answer: bytes, *, says: str) -> None:
    clock = SteppedClock()
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        if answer:
            writer.write(answer)
            writer.close()
            return
        await reader.read()
        writer.close()

    broken = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = broken.sockets[0].getsockname()[1]
    with Patch.context() as patch:
        patch.setattr(jobs.june_homes, "DEADLINE_SECONDS", 0.2)
        async with stepped_harness(run, clock, june_homes_url=f"http://127.0.0.1:{port}/leads") as harness:
            ids = [
                await harness.lead(
                    token="maple", requestor_email=f"{n}@renter.test", listing_source="june_homes"
                )
                for n in range(run.times)
            ]
            rows = await harness.settled(kind="june_homes")
            run.require({row["state"] for row in rows} == {"pending"}, "the lead is retried later")
            run.require(
                all(says in (row["reason"] or "") for row in rows if row["attempts"]), "the outbox says why"
            )
            broken.close()
            await harness.restart()  # with the URL of a partner that works
            run.recovery = await step_until_sent(harness, clock, "june_homes", 60)
            run.recovery_by_clock = True
            taken = Counter(headers["Webhook-Id"] for headers, _ in harness.partner.calls)
            run.lost = len(ids) - len(taken)
            run.duplicated = sum(taken.values()) - len(taken)
            run.tried = len(ids)
            run.seen = f"asked {asked} times meanwhile"
