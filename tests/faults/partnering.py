"""Owns the trials of a partner, June Homes, in every kind of trouble."""

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
    """Have the partner answer so until it is mended; says: what the outbox tells of it meanwhile."""
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.partner.replies = [reply] * 10_000
        ids = [
            await harness.lead(token="maple", requestor_email=f"{n}@renter.test", listing_source="june_homes")
            for n in range(run.times)
        ]
        rows = await harness.settled(kind="june_homes")
        place = await harness.destination("june_homes")
        said = " ".join(filter(None, [place["waits_because"], *(row["reason"] for row in rows)]))
        run.require(says in said, f"the outbox says {says!r}")
        asked = len(harness.partner.calls)
        if tries is not None:
            run.require(asked <= tries, "it is left alone for a while")
        mails = await harness.settled(kind="email", state="delivered")
        run.require(len(mails) == len(ids), "meanwhile every mail leaves")
        harness.partner.replies.clear()
        run.recovery = await step_until_sent(harness, clock, "june_homes", most)
        run.recovery_by_clock = True
        taken = Counter(headers["Webhook-Id"] for headers, _ in harness.partner.calls[asked:])
        run.lost = len(ids) - len(taken)
        run.duplicated = sum(taken.values()) - len(taken)
        run.require(run.duplicated == 0, "what was taken is not sent again")
        run.tried = len(ids)
        run.seen = f"asked {asked} times meanwhile"


@fault("june-500", "June Homes answers 500", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_500(run: FaultRun) -> None:
    await ride_out(run, (500, {}), says="answered 500", most=60)


@fault(
    "june-429", "June Homes answers 429, and says for how long", short=10, long=200, mutants=TRUSTS_ATTEMPT
)
async def june_429(run: FaultRun) -> None:
    await ride_out(run, (429, {"Retry-After": "900"}), says="answered 429", most=1000, tries=4)


@fault("june-redirect", "June Homes sends us elsewhere", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_redirect(run: FaultRun) -> None:
    await ride_out(run, (307, {"Location": "/leads"}), says="LEADS_JUNE_HOMES_URL", most=60, tries=4)


@fault("june-410", "June Homes says that it is gone", short=10, long=200, mutants=TRUSTS_ATTEMPT)
async def june_410(run: FaultRun) -> None:
    await ride_out(run, (410, {}), says="LEADS_JUNE_HOMES_URL", most=60, tries=4)


@fault("june-timeout", "June Homes takes the lead and says nothing", short=8, long=40, mutants=TRUSTS_ATTEMPT)
async def june_timeout(run: FaultRun) -> None:
    await _no_answer(run, b"", says="Timeout")


@fault("june-garbage", "June Homes answers what is no HTTP", short=8, long=200, mutants=TRUSTS_ATTEMPT)
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
            run.require({row["state"] for row in rows} == {"pending"}, "it is tried again later")
            run.require(all(says in (row["reason"] or "") for row in rows if row["attempts"]), "it says why")
            broken.close()
            await harness.restart()  # with an address that works
            run.recovery = await step_until_sent(harness, clock, "june_homes", 60)
            run.recovery_by_clock = True
            taken = Counter(headers["Webhook-Id"] for headers, _ in harness.partner.calls)
            run.lost = len(ids) - len(taken)
            run.duplicated = sum(taken.values()) - len(taken)
            run.tried = len(ids)
            run.seen = f"asked {asked} times meanwhile"
