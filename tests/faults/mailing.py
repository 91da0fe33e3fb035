"""Fault runs of a mail server: away, slow, or refusing."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from command_line import ACTOR
from conftest import ServerHarness, SteppedClock, running_harness
from fault_run import FaultRun, fault
from mutants import temporary_mutant

from models.outbox import actions
from models.outbox.delivery import Delivery
from models.outbox.destination import Destination

TRUSTS_ATTEMPT = ("marks every attempt as delivered",)
LONGEST_HOLD = 361  # seconds that a destination is held, with jitter, unless an operator is needed


@asynccontextmanager
async def stepped_harness(run: FaultRun, clock: SteppedClock, **options: str) -> AsyncIterator[ServerHarness]:
    """Run a server in this process, with a clock that the run steps."""
    with temporary_mutant(run.mutant):
        async with running_harness(run.folder / "data", clock, rate_limit="1000000/1", **options) as harness:
            await harness.building()
            yield harness


async def post_leads(harness: ServerHarness, count: int) -> dict[int, str]:
    """Post so many leads, and return their renters' addresses by id."""
    emails = [f"r{number}.{random.random()}@renter.test" for number in range(count)]
    return {await harness.lead(token="maple", requestor_email=email): email for email in emails}


async def step_until_sent(harness: ServerHarness, clock: SteppedClock, kind: str, most: float) -> float:
    """Step the clock until no delivery of this kind is pending, and return the seconds that passed on it."""
    began = clock.now()
    while (clock.now() - began).total_seconds() <= most:
        rows = await harness.settled(kind=kind)
        due = [datetime.fromisoformat(row["due_at"]) for row in rows if row["state"] == "pending"]
        if not due:
            break
        until = max(min(due), await held_until(harness, kind) or clock.now())
        clock.step(max(1.0, (until - clock.now()).total_seconds() + 0.1))
    return (clock.now() - began).total_seconds()


async def held_until(harness: ServerHarness, kind: str) -> datetime | None:
    """Return when the hold of a destination ends; None if it is not held."""

    def look() -> datetime | None:
        moment: datetime | None = Destination.get_by_id(kind).hold_until
        return moment

    return await harness.server.storage.read(look)


def judge_mail(run: FaultRun, harness: ServerHarness, leads: dict[int, str]) -> None:
    """Count the mails that did not arrive, and those that arrived again."""
    arrived = Counter(mail["Reply-To"] for mail in harness.mail.mails)
    run.lost += sum(arrived[email] == 0 for email in leads.values())
    run.duplicated += sum(max(0, arrived[email] - 1) for email in leads.values())
    by_id: dict[str, set[bytes]] = {}
    for mail, raw in zip(harness.mail.mails, harness.mail.raw, strict=True):
        by_id.setdefault(mail["Message-ID"], set()).add(raw)
    run.require(len(by_id) == len(arrived), "a lead's mail has one Message-ID, however often it is sent")
    run.require(
        all(len(raws) == 1 for raws in by_id.values()), "a mail that is sent again has the same bytes"
    )


async def recover(
    run: FaultRun, harness: ServerHarness, clock: SteppedClock, leads: dict[int, str], most: float
) -> None:
    """Wait, after the fault, until every mail is sent; note the recovery time, and count the mails."""
    run.recovery = await step_until_sent(harness, clock, "email", most)
    run.recovery_by_clock = True
    run.tried = len(leads)
    judge_mail(run, harness, leads)


@fault("smtp-down", "the mail server does not listen", short=20, long=200, mutants=TRUSTS_ATTEMPT)
async def smtp_down(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        await harness.mail.stop()
        leads = await post_leads(harness, run.times)
        rows = await harness.settled()
        run.require(
            sum(row["attempts"] for row in rows) <= 4,
            "a destination that is down is not tried again and again",
        )
        reason = (await harness.destination("email"))["waits_because"] or ""
        run.require("held until" in reason, "the outbox says that it is held")
        await harness.mail.start(harness.mail.port)
        await recover(run, harness, clock, leads, LONGEST_HOLD)


@fault(
    "smtp-slow",
    "the mail server replies late",
    short=20,
    long=200,
    mutants=("delivers one kind at a time",),
)
async def smtp_slow(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.mail.gate.clear()
        leads = {}
        for _ in range(run.times):
            lead_id = await harness.lead(
                token="maple", requestor_email=(email := f"{_}@renter.test"), listing_source="june_homes"
            )
            leads[lead_id] = email
        try:
            async with asyncio.timeout(2 if run.mutant else 50):
                while len(harness.partner.calls) < run.times:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            run.require(False, "other deliveries go on meanwhile")
        run.require(not harness.mail.mails, "no mail has left")
        harness.mail.gate.set()
        await recover(run, harness, clock, leads, LONGEST_HOLD)
        run.require(run.duplicated == 0, "no mail is sent twice")


@fault("smtp-4xx", "the mail server replies 4xx", short=20, long=200, mutants=TRUSTS_ATTEMPT)
async def smtp_4xx(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.mail.replies = ["451 greylisted"] * (run.times + 3)
        leads = await post_leads(harness, run.times)
        await harness.settled()
        await recover(run, harness, clock, leads, 300)
        run.require(run.duplicated == 0, "no mail is sent twice")


@fault(
    "smtp-5xx-recipient",
    "the mail server refuses the recipient",
    short=20,
    long=200,
    mutants=TRUSTS_ATTEMPT,
)
async def smtp_5xx_recipient(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        await harness.building(token="oak", agent_email="gone@oak.test")
        harness.mail.unknown = {"gone@oak.test"}
        lost = {
            await harness.lead(token="oak", requestor_email=(email := f"oak{n}@renter.test")): email
            for n in range(run.times)
        }
        fine = await post_leads(harness, run.times)
        rows = await harness.settled(kind="email")
        states = Counter((row["state"], row["attempts"]) for row in rows)
        run.require(states[("failed", 1)] == len(lost), "a refused mail fails at once, and is kept")
        run.require(states[("delivered", 1)] == len(fine), "mails to other agents are delivered")
        harness.mail.unknown = set()
        await harness.change(lambda: actions.retry_failed(ACTOR, None, clock.now()))
        await recover(run, harness, clock, {**lost, **fine}, LONGEST_HOLD)
        run.require(run.duplicated == 0, "no mail is sent twice")


@fault("smtp-5xx-login", "the mail server refuses the login", short=20, long=200, mutants=TRUSTS_ATTEMPT)
async def smtp_5xx_login(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.mail.password = "right"
        await harness.restart(smtp_url=harness.mail.url.replace("://", "://office:wrong@"))
        leads = await post_leads(harness, run.times)
        rows = await harness.settled()
        run.require(sum(row["attempts"] for row in rows) <= 4, "a refused login is not tried again and again")
        reason = (await harness.destination("email"))["waits_because"] or ""
        run.require("LEADS_SMTP_URL" in reason, "the outbox names the setting to check")
        harness.mail.password = "wrong"
        await recover(run, harness, clock, leads, 3600 * 1.3)
        run.require(run.duplicated == 0, "no mail is sent twice")


@fault(
    "smtp-dies-after-data",
    "the mail server accepts a mail, and is gone before its reply",
    short=20,
    long=200,
    mutants=TRUSTS_ATTEMPT,
    may_duplicate=True,
)
async def smtp_dies_after_data(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        harness.mail.deaths = run.times
        leads = await post_leads(harness, run.times)
        await harness.settled()
        await recover(run, harness, clock, leads, 600)
        run.require(run.duplicated == run.times, "a mail without a reply is sent again, once")
        run.seen = "each arrives twice, with the same bytes, as it must"


@fault(
    "smtp-down-24h",
    "the mail server is away for 24 hours",
    short=100,
    long=10_000,
    mutants=("never trips a circuit breaker",),
)
async def smtp_down_24h(run: FaultRun) -> None:
    clock = SteppedClock()
    async with stepped_harness(run, clock) as harness:
        await harness.mail.stop()
        port = ClosedPort(harness.mail.port)
        leads: dict[int, str] = {}
        for first in range(0, run.times, 50):
            emails = [f"r{n}@renter.test" for n in range(first, min(first + 50, run.times))]
            ids = await asyncio.gather(*(harness.lead(token="maple", requestor_email=e) for e in emails))
            leads |= dict(zip(ids, emails, strict=True))
        try:
            await wait_until_idle(harness, looks=5_000)
        except NeverIdle:
            run.require(False, "a destination that is down is not tried again and again")
            return
        ends, probes = clock.now() + timedelta(hours=24), 0
        while clock.now() < ends:
            until = await held_until(harness, "email")
            run.require(until, "a destination that is down is held")
            if until is None:
                return
            hold = (until - clock.now()).total_seconds()
            before, probes = port.connections, probes + 1
            clock.step(hold - 0.5)
            await wait_until_idle(harness)
            run.require(port.connections == before, "no mail is tried while the destination is held")
            clock.step(1)
            await wait_until_idle(harness)
            run.require(port.connections == before + 1, "one probe after each hold")
            run.require(hold <= LONGEST_HOLD, "a probe at least every six minutes")
        await port.close()
        await harness.mail.start(harness.mail.port)
        run.recovery_by_clock = True
        began = clock.now()
        while not harness.mail.mails:
            clock.step(5)
            await wait_until_idle(harness)
        run.recovery = (clock.now() - began).total_seconds()
        while len(harness.mail.mails) < run.times and await count_unsent(harness):
            harness.server.dispatcher.wake()
            await asyncio.sleep(0.02)
            clock.step(1)
        await wait_until_idle(harness)
        run.tried = len(leads)
        judge_mail(run, harness, leads)
        run.require(run.duplicated == 0, "no mail is sent twice")
        run.require(harness.mail.most_at_once <= 4, "at most four connections at once when it returns")
        run.seen = f"{probes} probes in 24 h, then {harness.mail.most_at_once} connections at once at most"


class ClosedPort:
    """A port that closes every connection at once, and counts them."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._task = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._socket)
            self.connections += 1
            connection.close()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


async def count_unsent(harness: ServerHarness) -> int:
    """Return the number of mails that are pending or being sent."""

    def count() -> int:
        number: int = Delivery.select().where(Delivery.state.in_(("pending", "sending"))).count()
        return number

    return await harness.server.storage.read(count)


class NeverIdle(Exception):
    """The dispatcher does not come to rest."""


async def wait_until_idle(harness: ServerHarness, looks: int = 300_000) -> None:
    """Wait until the dispatcher has nothing left to do. Raises NeverIdle after so many looks."""
    server, still = harness.server, 0

    def busy() -> bool:
        workers = server.dispatcher._workers
        delivering = any(worker._running or worker._awake.is_set() for worker in workers)
        return delivering or harness.queue.unanswered > 0

    server.dispatcher.wake()
    for _ in range(looks):
        await asyncio.sleep(0.001)
        still = 0 if busy() else still + 1
        if still == 5:  # between two steps the dispatcher may look idle for a moment
            return
    raise NeverIdle
