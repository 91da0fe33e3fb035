"""Owns the conversations with a mail server: begun, kept for the next mail, ended; and how each can fail."""

import asyncio
import ipaddress
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from jobs.adapter import DeliveryError, in_words, one_line
from models.outbox.claims import FailureKind
from models.settings import SmtpServer

GOODBYE_SECONDS = 2.0
RESUME_SECONDS = 5.0  # how long one that was kept may take to answer, before another is begun
REPLY_LIMIT = 160
KEPT_SECONDS = 1.0  # how long a conversation waits for another mail; the server has its own idea of it
MOST_MAILS = 50  # in one conversation: some servers take no more than a hundred


async def check_login(server: SmtpServer, deadline: float) -> bool:
    """Log in to the server as before a mail, and leave, within so many seconds. True if it was encrypted.

    Raises DeliveryError.
    """
    async with _session(server, deadline) as session:
        await _log_in(session)
        return session.smtp.get_transport_info("sslcontext") is not None


async def peer_certificate(server: SmtpServer, deadline: float) -> dict[str, Any] | None:
    """The certificate that the server shows, as `ssl` has it, and was believed; None without encryption.

    The deadline is in seconds. Raises DeliveryError.
    """
    async with _session(server, deadline) as session:
        certificate: dict[str, Any] | None = session.smtp.get_transport_info("peercert")
        return certificate


@dataclass(frozen=True, slots=True)
class SmtpSession:
    """One connection to the server, until a moment of the loop's clock. Secrets: not to be quoted. mails: how
    many it has brought.
    """

    server: SmtpServer
    smtp: SMTP
    until: float
    secrets: tuple[str, ...]
    mails: int = 0

    @asynccontextmanager
    async def step(
        self,
        name: str,
        *,
        lost: FailureKind,
        refused: FailureKind,
        closing: FailureKind = FailureKind.UNREACHABLE,
        hint: str = "",
        lost_hint: str = "",
        until: float | None = None,
    ) -> AsyncIterator[None]:
        """A step of it. refused: the verdict on a 5xx; closing: on a 421; lost: on anything else.

        The cause is left off: whoever logged it would log what the server quoted.
        """
        try:
            async with asyncio.timeout_at(until or self.until):
                yield
        except SMTPResponseException as error:
            verdict = closing if error.code == 421 else refused if 500 <= error.code <= 599 else lost
            reply = f"answered {name} with {error.code} {self._quotable(error.message)}".strip()
            raise self.problem(verdict, reply, hint if verdict is refused else "") from None
        except TimeoutError:
            raise self.problem(lost, f"gave no answer in time at {name}", lost_hint) from None
        except (SMTPException, OSError, ValueError) as error:  # ValueError: a host name like 'a..b'
            cause = self._quotable(in_words(error.__cause__ or error))
            raise self.problem(lost, f"failed at {name}: {cause}", lost_hint) from None

    def problem(self, verdict: FailureKind, what: str, hint: str = "") -> DeliveryError:
        """The error to raise: who, what they did, and what the operator can do about it."""
        return DeliveryError(f"{self.server.host}:{self.server.port} {what}", verdict, hint=hint)

    def _quotable(self, reply: str) -> str:
        for secret in self.secrets:
            reply = re.sub(re.escape(secret), "***", reply, flags=re.IGNORECASE)
        return one_line(reply, REPLY_LIMIT)


Opened = TypeVar("Opened")
Opening = Callable[[SmtpSession], Awaitable[Opened]]


class SmtpPool:
    """SmtpPool with one server. One that is over is kept for a moment, so that a burst of mails needs
    one handshake and one login.
    """

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._tls = _tls_for(server)  # made once: it reads hundreds of certificates
        self._kept: list[SmtpSession] = []
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def one(
        self, deadline: float, renter: Iterable[str], opening: Opening[Opened]
    ) -> AsyncIterator[tuple[SmtpSession, Opened]]:
        """A conversation that is logged in, with what came of its opening; kept unless something failed.
        deadline: how many seconds it may last. renter: what must not be quoted besides the password. opening:
        sends the mail's first commands, which is all that comes before anything has left.

        Raises DeliveryError.
        """
        until, secrets = asyncio.get_running_loop().time() + deadline, _secrets(self._server, renter)
        session, opened = await self._resumed(secrets, opening) or await self._anew(until, secrets, opening)
        async with _or_hang_up(session):
            yield replace(session, until=until), opened
        self._keep(replace(session, mails=session.mails + 1))

    async def close(self) -> None:
        """End those that are kept."""
        while self._kept:
            self._leave(self._kept.pop())
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _resumed(
        self, secrets: tuple[str, ...], opening: Opening[Opened]
    ) -> tuple[SmtpSession, Opened] | None:
        # Whatever it answers, and if it doesn't: perhaps it has only had enough of this conversation.
        while self._kept:
            until = asyncio.get_running_loop().time() + RESUME_SECONDS
            session = self._kept.pop()
            # Those of earlier renters as well: a server may quote their mail.
            session = replace(session, until=until, secrets=_longest_first({*session.secrets, *secrets}))
            with suppress(DeliveryError):
                async with _or_hang_up(session):
                    return session, await opening(session)
        return None

    async def _anew(
        self, until: float, secrets: tuple[str, ...], opening: Opening[Opened]
    ) -> tuple[SmtpSession, Opened]:
        session = await _begun(self._server, self._tls, until, secrets)
        async with _or_hang_up(session):
            await _log_in(session)
            return session, await opening(session)

    def _keep(self, session: SmtpSession) -> None:
        if session.mails >= MOST_MAILS:
            self._leave(session)
            return
        self._kept.append(session)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._leave_if_kept, session)

    def _leave_if_kept(self, session: SmtpSession) -> None:
        if session in self._kept:
            self._kept.remove(session)
            self._leave(session)

    def _leave(self, session: SmtpSession) -> None:
        leaving = asyncio.create_task(_leave(session))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


@asynccontextmanager
async def _session(server: SmtpServer, deadline: float) -> AsyncIterator[SmtpSession]:
    """One that is not kept, and not logged in."""
    until = asyncio.get_running_loop().time() + deadline
    session = await _begun(server, _tls_for(server), until, _secrets(server))
    async with _or_hang_up(session):
        yield session
    await _leave(session)


async def _begun(
    server: SmtpServer, tls: ssl.SSLContext | None, until: float, secrets: tuple[str, ...]
) -> SmtpSession:
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.implicit_tls,
        start_tls=False,  # a step of its own, below
        tls_context=tls,
        timeout=None,  # one deadline for all of it
    )
    session = SmtpSession(server, smtp, until, secrets)
    async with _or_hang_up(session):
        async with session.step("connecting", lost=FailureKind.UNREACHABLE, refused=FailureKind.UNREACHABLE):
            await smtp.connect()
        async with session.step("EHLO", lost=FailureKind.UNREACHABLE, refused=FailureKind.UNREACHABLE):
            await smtp.ehlo()
        await _encrypt(session)
    return session


async def _leave(session: SmtpSession) -> None:
    try:
        with suppress(SMTPException, OSError):  # what was to be done is done, whatever comes of the goodbye
            async with asyncio.timeout(GOODBYE_SECONDS):
                await session.smtp.execute_command(b"QUIT")
    finally:
        _hang_up(session)


@asynccontextmanager
async def _or_hang_up(session: SmtpSession) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        _hang_up(session)
        raise


def _hang_up(session: SmtpSession) -> None:
    # Closing alone leaves a TLS connection open until the other side says goodbye as well.
    if session.smtp.transport is not None:
        cast(asyncio.WriteTransport, session.smtp.transport).abort()
    session.smtp.close()


def _tls_for(server: SmtpServer) -> ssl.SSLContext | None:
    # Without encryption there is no need of it.
    return None if server.starttls == "never" and not server.implicit_tls else ssl.create_default_context()


def _secrets(server: SmtpServer, renter: Iterable[str] = ()) -> tuple[str, ...]:
    """What a server's answer may repeat and a reason must not: the password, and who the renter is."""
    texts = list(renter)
    if server.user:
        user, password = server.user, server.password or ""
        sent = [f"\0{user}\0{password}", password]  # as AUTH PLAIN and AUTH LOGIN put it
        texts += [password, *(b64encode(text.encode()).decode() for text in sent)]
    # A name like 'A' would black out everything.
    return _longest_first({text.strip() for text in texts if len(text.strip()) > 2})


def _longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(secrets, key=len, reverse=True))  # as a shorter one may be a part of it


async def _encrypt(session: SmtpSession) -> None:
    if session.server.implicit_tls or session.server.starttls == "never":
        return
    if session.smtp.supports_extension("starttls"):
        # Not without it if it fails: whoever can break the handshake could then read along.
        async with session.step("STARTTLS", lost=FailureKind.UNREACHABLE, refused=FailureKind.UNREACHABLE):
            await session.smtp.starttls()
            await session.smtp.ehlo()
    elif session.server.starttls == "always":
        raise session.problem(
            FailureKind.NEEDS_OPERATOR, "offers no STARTTLS", "see starttls= in LEADS_SMTP_URL"
        )


async def _log_in(session: SmtpSession) -> None:
    server, smtp = session.server, session.smtp
    if server.user is None:
        return
    hint = "check the user and password in LEADS_SMTP_URL"
    async with session.step(
        "AUTH", lost=FailureKind.UNREACHABLE, refused=FailureKind.NEEDS_OPERATOR, hint=hint
    ):
        if server.starttls != "never" and _can_be_overheard(smtp):
            raise session.problem(
                FailureKind.NEEDS_OPERATOR,
                "offers no encryption, and the password is not sent without",
                "use smtps:// or, at your own risk, starttls=never in LEADS_SMTP_URL",
            )
        if not smtp.supported_auth_methods:
            raise session.problem(
                FailureKind.NEEDS_OPERATOR, "offers no login", "see the user in LEADS_SMTP_URL"
            )
        await smtp.login(server.user, server.password or "")


def _can_be_overheard(smtp: SMTP) -> bool:
    peer = ipaddress.ip_address(smtp.get_transport_info("peername")[0])
    return smtp.get_transport_info("sslcontext") is None and not peer.is_loopback
