"""Fault runs of refusals: of some leads for their content, and of every mail for its sender's sake."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from conftest import ServerHarness, SteppedClock
from fault_run import FaultRun, fault
from lead_client import lead_body
from mailing import held_until, step_until_sent, stepped_harness, wait_until_idle
from mutants import Patch

from models.settings import setting_names

Answer = TypeVar("Answer")

POISON = "poison"  # in the address of a renter whose lead is refused
AT_ONCE = 20  # connections of a source, of which a server takes 32
POISONER = "203.0.113.66"  # the source of all of these leads
HONEST = [f"198.51.100.{n}" for n in range(1, 6)]  # the sources of the others
MOST_SECONDS = 60  # until an honest lead is there, by the clock that the run steps
STEP_REAL_SECONDS = 0.2  # that a step may take while a delivery hangs
# Each poisoned lead is a mail of its own, so that none of them leaves with others in a digest.
OPTIONS: dict[str, str] = {
    name: "0" for name in ("mails_per_source", "mails_per_address") if name in setting_names()
}

PARTNER_ANSWERS = {
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "401": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "302": b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    "closed": b"",
}
CLOSED, HANGS = "closed", "hangs"
MAIL_REPLIES = (
    "421 4.7.0 try again later",
    "451 4.7.1 try again later",
    "550 5.7.1 message content rejected",
    "554 transaction failed",
    CLOSED,
    HANGS,
)


class PoisonedPartner:
    """A partner that accepts every lead, except those whose body contains POISON while `answer` is set."""

    def __init__(self, answer: bytes) -> None:
        self.answer: bytes | None = answer
        self._accepted: Counter[str] = Counter()
        self.refused = 0

    def accepted(self) -> Counter[str]:
        """Return how often each renter's lead was accepted."""
        return self._accepted

    def mend(self) -> None:
        """Accept every lead from now on."""
        self.answer = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and answer it."""
        with suppress(OSError, EOFError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
            email = re.findall(rb'"requestor_email":"([^"]+)"', await reader.readexactly(length))[0].decode()
            if self.answer is not None and POISON in email:
                self.refused += 1
                writer.write(self.answer)
            else:
                self._accepted[email] += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()


class PoisonedMail:
    """The mail server of a harness, which refuses mails that contain POISON while `reply` is set."""

    def __init__(self, harness: ServerHarness, reply: str, patch: Patch) -> None:
        self.reply: str | None = reply
        self.mended = asyncio.Event()
        self.refused = 0
        self._mails, self._accept = harness.mail.mails, harness.mail.handle_DATA
        patch.setattr(harness.mail, "handle_DATA", self._handle_data)

    async def _handle_data(self, server: Any, session: Any, envelope: Any) -> str:
        if self.reply is None or POISON.encode() not in envelope.content:
            return await self._accept(server, session, envelope)
        self.refused += 1
        if self.reply == CLOSED:
            server.transport.abort()
        if self.reply == HANGS:
            await self.mended.wait()
            return "451 4.3.0 try again later"
        return self.reply

    def accepted(self) -> Counter[str]:
        """Return how often each renter's mail was accepted."""
        return Counter(mail["Reply-To"] for mail in self._mails)

    def mend(self) -> None:
        """Accept every mail from now on."""
        self.reply = None
        self.mended.set()


async def post_from(harness: ServerHarness, source: str, emails: list[str]) -> None:
    """Post a lead of June Homes from each of these renters. source: their IP address."""
    for first in range(0, len(emails), AT_ONCE):
        for answer in await asyncio.gather(
            *(
                harness.request(
                    "POST",
                    "/api/v1/website_leads",
                    lead_body(email, listing_source="june_homes"),
                    X_Forwarded_For=source,
                )
                for email in emails[first : first + AT_ONCE]
            )
        ):
            assert answer.code == 201, answer.body


async def step_until(
    harness: ServerHarness, clock: SteppedClock, have_come: Callable[[], bool], *, hangs: bool = False
) -> float:
    """Step the clock by seconds until this is true, or for MOST_SECONDS and one more. Return the seconds."""
    for seconds in range(MOST_SECONDS + 1):
        with suppress(TimeoutError):
            async with asyncio.timeout(STEP_REAL_SECONDS if hangs else None):
                await wait_until_idle(harness)
        if have_come():
            return seconds
        clock.step(1)
    return MOST_SECONDS + 1


def honest_emails(name: str) -> dict[str, str]:
    """Return the sources of the honest leads, by their renters' addresses."""
    return {f"honest{at}.{name}@renter.test": source for at, source in enumerate(HONEST)}


async def pass_poison(
    run: FaultRun,
    harness: ServerHarness,
    clock: SteppedClock,
    name: str,
    arrived: Callable[[], Counter[str]],
    mend: Callable[[], None],
    kind: str,
) -> None:
    """Queue poisoned leads, then honest ones; check when these arrive, and that in the end all do."""
    hangs = name == HANGS
    poisoned = [f"{POISON}{number}@renter.test" for number in range(run.times)]
    await post_from(harness, POISONER, poisoned)
    await step_until(harness, clock, lambda: True, hangs=hangs)
    honest = honest_emails("first")
    for email, source in honest.items():
        await post_from(harness, source, [email])
    took = await step_until(harness, clock, lambda: honest.keys() <= arrived().keys(), hangs=hangs)
    run.recovery = max(run.recovery or 0.0, took)
    run.recovery_by_clock = True
    run.tried += run.times
    run.require(took <= MOST_SECONDS, f"honest leads pass the poisoned ones within a minute ({name})")
    if run.broken and run.mutant:
        return
    mend()
    await step_until_sent(harness, clock, kind, 3 * 86_400)
    count = arrived()
    everyone = [*poisoned, *honest]
    run.lost += sum(count[email] == 0 for email in everyone)
    run.duplicated += sum(max(0, count[email] - 1) for email in everyone)


def variants(run: FaultRun, every: list[Answer]) -> list[Answer]:
    """Return the answers that a run tries: one, while it looks for a mutant."""
    return every[:1] if run.mutant else every


@fault(
    "poisoned-partner",
    "June Homes refuses 300 leads of one source for their content, in seven ways",
    short=20,
    long=300,
    mutants=("lays every refusal at the destination", "gives up at any refusal"),
)
async def poisoned_partner(run: FaultRun) -> None:
    refused = 0
    for name in variants(run, list(PARTNER_ANSWERS)):
        partner, clock = PoisonedPartner(PARTNER_ANSWERS[name]), SteppedClock()
        async with await asyncio.start_server(partner.talk, "127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/leads"
            async with own_harness(run, name, clock, june_homes_url=url) as harness:
                await pass_poison(run, harness, clock, name, partner.accepted, partner.mend, "june_homes")
        refused += partner.refused
    run.seen = f"refused {refused} times; recovery is the wait of honest leads"


@fault(
    "poisoned-mail",
    "the mail server refuses 300 mails of one source for their content, in six ways",
    short=20,
    long=300,
    mutants=("lays every refusal at the destination", "gives up at any refusal"),
)
async def poisoned_mail(run: FaultRun) -> None:
    refused = 0
    for name in variants(run, list(MAIL_REPLIES)):
        clock = SteppedClock()
        async with own_harness(run, name, clock) as harness:
            with Patch.context() as patch:
                mail = PoisonedMail(harness, name, patch)
                await pass_poison(run, harness, clock, name, mail.accepted, mail.mend, "email")
                refused += mail.refused
                mail.mend()  # else the stop of a mutant's run waits for a hanging mail
    run.seen = f"refused {refused} times; recovery is the wait of honest mails"


@asynccontextmanager
async def own_harness(
    run: FaultRun, name: str, clock: SteppedClock, **options: str
) -> AsyncIterator[ServerHarness]:
    """Run a server behind a trusted proxy, in a folder of its own."""
    own = FaultRun(run.folder / re.sub(r"\W", "-", name), run.times, run.mutant)
    own.folder.mkdir()
    options = {"trusted_proxies": "127.0.0.1", **OPTIONS, **options}
    async with stepped_harness(own, clock, **options) as harness:
        yield harness


QUOTA_DAYS = 6
SAID = {  # by command: what the server says to each mail
    ("DATA", "550 5.4.5 Daily user sending limit exceeded"): "5.4.5",
    ("DATA", "550 5.7.60 SMTP; Client does not have permissions to send as this sender"): "5.7.60",
    ("RCPT", "554 5.7.1 relay access denied"): "5.7.1",
    ("RCPT", "504 5.5.2 Helo command rejected: need fully-qualified hostname"): "5.5.2",
}


@fault(
    "quota-at-data",
    "the mail server refuses every mail for six days, for the sender's sake",
    short=10,
    long=100,
    mutants=("gives up at any refusal",),
)
async def quota_at_data(run: FaultRun) -> None:
    tries = 0
    for command, reply in variants(run, list(SAID)):
        code, clock = SAID[command, reply], SteppedClock()
        async with own_harness(run, f"{command} {code}", clock) as harness:
            with Patch.context() as patch:
                refusals = _refuse_all(harness, patch, command, reply)
                emails = [f"r{number}@renter.test" for number in range(run.times)]
                await post_from(harness, HONEST[0], emails)
                await _wait_days(run, harness, clock, code)
                tries += len(refusals)
            run.tried += len(emails)
            took = await step_until_sent(harness, clock, "email", 86_400)
            run.recovery = max(run.recovery or 0.0, took)
            run.recovery_by_clock = True
            arrived = Counter(mail["Reply-To"] for mail in harness.mail.mails)
            run.lost += sum(arrived[email] == 0 for email in emails)
            run.duplicated += sum(max(0, arrived[email] - 1) for email in emails)
    run.seen = f"tried {tries} times in {QUOTA_DAYS} days"


def _refuse_all(harness: ServerHarness, patch: Patch, command: str, reply: str) -> list[str]:
    """Let the mail server give each mail this reply to a command. Return the list of the replies given."""
    given: list[str] = []

    async def refuse(server: Any, session: Any, envelope: Any, *rest: Any) -> str:
        given.append(reply)
        return reply

    patch.setattr(harness.mail, f"handle_{command}", refuse)
    return given


async def _wait_days(run: FaultRun, harness: ServerHarness, clock: SteppedClock, code: str) -> None:
    """Step the clock for QUOTA_DAYS, from attempt to attempt, and check what the outbox says."""
    ends = clock.now() + timedelta(days=QUOTA_DAYS)
    while clock.now() < ends:
        rows = await harness.settled(kind="email")
        run.require({row["state"] for row in rows} == {"pending"}, "no mail is given up")
        said = (await harness.destination("email"))["waits_because"] or ""
        reasons = [said, *(row["reason"] or "" for row in rows)]
        run.require(any(code in reason for reason in reasons), f"the outbox says why mail waits ({code})")
        if run.broken:
            return
        until = await held_until(harness, "email") or clock.now()
        least = 60.0 if run.timed else 6 * 3600.0  # each attempt, or in the short form some
        clock.step(max(least, (until - clock.now()).total_seconds() + 0.1))
