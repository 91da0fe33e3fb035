"""Owns handing a lead's mail to the mail server: the conversation, and what each way it can end means."""

import asyncio
import ipaddress
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from jobs.delivery import Adapter, DeliveryError, Parcel, in_words, one_line
from jobs.email_message import mailbox, render
from models.outbox import Verdict
from models.settings import SmtpServer

DEADLINE = 30.0  # seconds for the conversation, from looking up the host to the recipient
DATA_DEADLINE = 600.0  # seconds for the mail itself (RFC 5321, 4.5.3.2): given up too soon it arrives twice
GOODBYE_SECONDS = 2.0
REPLY_LIMIT = 160


def email_adapter(
    server: SmtpServer, mail_from: str, *, deadline: float = DEADLINE, data_deadline: float = DATA_DEADLINE
) -> Adapter:
    """An adapter that mails a parcel's lead to its building's agent, from mail_from, by this server.

    The deadlines are in seconds. Lost after MAIL FROM the verdict is that it may pass: the mail may have been
    taken, and a second will have the same Message-ID.
    """
    tls = _tls_for(server)  # made once: it reads hundreds of certificates

    async def deliver(parcel: Parcel) -> None:
        agent = _agent_of(parcel)
        renter = [parcel.lead[f"requestor_{field}"] or "" for field in ("email", "name", "phone")]
        async with _conversation(server, tls, deadline, renter) as talk:
            await _log_in(talk)
            await _hand_over(talk, parcel, mail_from, agent, data_deadline)

    return deliver


async def check_login(server: SmtpServer, deadline: float) -> bool:
    """Log in to the server as before a mail, and leave, within so many seconds. True if it was encrypted.

    Raises DeliveryError.
    """
    async with _conversation(server, _tls_for(server), deadline) as talk:
        await _log_in(talk)
        return talk.smtp.get_transport_info("sslcontext") is not None


async def peer_certificate(server: SmtpServer, deadline: float) -> dict[str, Any] | None:
    """The certificate that the server shows, as `ssl` has it, and was believed; None without encryption.

    The deadline is in seconds. Raises DeliveryError.
    """
    async with _conversation(server, _tls_for(server), deadline) as talk:
        certificate: dict[str, Any] | None = talk.smtp.get_transport_info("peercert")
        return certificate


def _tls_for(server: SmtpServer) -> ssl.SSLContext | None:
    # Without encryption there is no need of it.
    return None if server.starttls == "never" and not server.implicit_tls else ssl.create_default_context()


def _agent_of(parcel: Parcel) -> str:
    if parcel.building is None:
        raise DeliveryError("no building matched the lead, so there is nobody to tell", Verdict.PERMANENT)
    agent: str | None = parcel.building["agent_email"]
    if not agent:
        raise DeliveryError(
            "the building has no agent e-mail; set one with 'building update' and retry", Verdict.PERMANENT
        )
    return agent


@dataclass(frozen=True, slots=True)
class _Conversation:
    """One connection to the server, until a moment of the loop's clock. Secrets: not to be quoted."""

    server: SmtpServer
    smtp: SMTP
    until: float
    secrets: tuple[str, ...]

    @asynccontextmanager
    async def step(
        self,
        name: str,
        *,
        lost: Verdict,
        refused: Verdict,
        closing: Verdict = Verdict.DOWN,
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

    def problem(self, verdict: Verdict, what: str, hint: str = "") -> DeliveryError:
        """The error to raise: who, what they did, and what the operator can do about it."""
        return DeliveryError(f"{self.server.host}:{self.server.port} {what}", verdict, hint=hint)

    def _quotable(self, reply: str) -> str:
        for secret in self.secrets:
            reply = re.sub(re.escape(secret), "***", reply, flags=re.IGNORECASE)
        return one_line(reply, REPLY_LIMIT)


@asynccontextmanager
async def _conversation(
    server: SmtpServer, tls: ssl.SSLContext | None, deadline: float, renter: Iterable[str] = ()
) -> AsyncIterator[_Conversation]:
    """A conversation with the server, encrypted as it is to be, that may last so many seconds. It ends with
    a goodbye unless something failed. renter: what must not be quoted besides the password.
    """
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.implicit_tls,
        start_tls=False,  # a step of its own, below
        tls_context=tls,
        timeout=None,  # one deadline for all of it
    )
    until = asyncio.get_running_loop().time() + deadline
    talk = _Conversation(server, smtp, until, _secrets(server, renter))
    try:
        async with talk.step("connecting", lost=Verdict.DOWN, refused=Verdict.DOWN):
            await smtp.connect()
        async with talk.step("EHLO", lost=Verdict.DOWN, refused=Verdict.DOWN):
            await smtp.ehlo()
        await _encrypt(talk)
        yield talk
        with suppress(SMTPException, OSError):  # what was to be done is done, whatever comes of the goodbye
            async with asyncio.timeout(GOODBYE_SECONDS):
                await smtp.execute_command(b"QUIT")
    finally:
        # Closing alone leaves a TLS connection open until the other side says goodbye as well.
        if smtp.transport is not None:
            cast(asyncio.WriteTransport, smtp.transport).abort()
        smtp.close()


def _secrets(server: SmtpServer, renter: Iterable[str]) -> tuple[str, ...]:
    """What a server's answer may repeat and a reason must not: the password, and who the renter is. The
    longest first, as a shorter one may be a part of it.
    """
    texts = list(renter)
    if server.user:
        user, password = server.user, server.password or ""
        sent = [f"\0{user}\0{password}", password]  # as AUTH PLAIN and AUTH LOGIN put it
        texts += [password, *(b64encode(text.encode()).decode() for text in sent)]
    # A name like 'A' would black out everything.
    return tuple(sorted({text.strip() for text in texts if len(text.strip()) > 2}, key=len, reverse=True))


async def _encrypt(talk: _Conversation) -> None:
    if talk.server.implicit_tls or talk.server.starttls == "never":
        return
    if talk.smtp.supports_extension("starttls"):
        # Not without it if it fails: whoever can break the handshake could then read along.
        async with talk.step("STARTTLS", lost=Verdict.DOWN, refused=Verdict.DOWN):
            await talk.smtp.starttls()
            await talk.smtp.ehlo()
    elif talk.server.starttls == "always":
        raise talk.problem(Verdict.NEEDS_OPERATOR, "offers no STARTTLS", "see starttls= in LEADS_SMTP_URL")


async def _log_in(talk: _Conversation) -> None:
    server, smtp = talk.server, talk.smtp
    if server.user is None:
        return
    hint = "check the user and password in LEADS_SMTP_URL"
    async with talk.step("AUTH", lost=Verdict.DOWN, refused=Verdict.NEEDS_OPERATOR, hint=hint):
        if server.starttls != "never" and _can_be_overheard(smtp):
            raise talk.problem(
                Verdict.NEEDS_OPERATOR,
                "offers no encryption, and the password is not sent without",
                "use smtps:// or, at your own risk, starttls=never in LEADS_SMTP_URL",
            )
        if not smtp.supported_auth_methods:
            raise talk.problem(Verdict.NEEDS_OPERATOR, "offers no login", "see the user in LEADS_SMTP_URL")
        await smtp.login(server.user, server.password or "")


def _can_be_overheard(smtp: SMTP) -> bool:
    peer = ipaddress.ip_address(smtp.get_transport_info("peername")[0])
    return smtp.get_transport_info("sslcontext") is None and not peer.is_loopback


async def _hand_over(
    talk: _Conversation, parcel: Parcel, mail_from: str, agent: str, data_deadline: float
) -> None:
    """MAIL FROM, RCPT TO and DATA. From here on what is lost may have arrived, and a 421 may be for this
    mail alone: without counting it, one such mail would hold up all others for good.
    """
    smtp = talk.smtp
    # Asked for only if our own side's addresses need it: a server further on that doesn't speak it would
    # send the whole lead back. What is left out for it otherwise is a renter's Reply-To; the text has it.
    needed = not (mail_from.isascii() and agent.isascii())
    utf8 = needed and smtp.supports_extension("smtputf8")
    sender, recipient = mailbox(mail_from, utf8=utf8), mailbox(agent, utf8=utf8)
    if sender is None:
        raise talk.problem(
            Verdict.NEEDS_OPERATOR, "takes ASCII addresses alone", "set another LEADS_MAIL_FROM"
        )
    if recipient is None:
        raise talk.problem(
            Verdict.PERMANENT,
            "takes ASCII addresses alone, and the agent's is not one",
            "set another with 'building update' and retry",
        )
    mail = render(parcel, mail_from, utf8=utf8)
    options = [] if mail.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
    hint = "check LEADS_MAIL_FROM, and the user in LEADS_SMTP_URL"
    # With an option that only this agent's address asks for, it is this mail that is refused.
    refused = Verdict.PERMANENT if options else Verdict.NEEDS_OPERATOR
    async with talk.step(
        "MAIL FROM", lost=Verdict.PASSING, refused=refused, closing=Verdict.SUSPECT, hint=hint
    ):
        await smtp.mail(sender, options=options, encoding="utf-8")
    async with talk.step("RCPT TO", lost=Verdict.PASSING, refused=Verdict.PERMANENT, closing=Verdict.SUSPECT):
        await smtp.rcpt(recipient, encoding="utf-8")
    async with talk.step(
        "DATA",
        lost=Verdict.PASSING,
        refused=Verdict.PERMANENT,
        closing=Verdict.SUSPECT,
        lost_hint="it may have taken the mail",
        until=asyncio.get_running_loop().time() + data_deadline,
    ):
        await smtp.data(mail)
