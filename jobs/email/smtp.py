"""SMTP sessions: connect, encrypt, log in, quit.

A step that fails raises a DeliveryError, whose kind says what the failure means for the mail and the server.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

from aiosmtplib import SMTP, SMTPException, SMTPHeloError, SMTPResponseException

from jobs.adapter import DeliveryError, one_line, system_error_text
from jobs.email.connection import connect
from jobs.email.greeting import helo_name
from jobs.email.replies import Judgement, enhanced_code
from models.outbox.outcomes import FailureKind
from models.setting_values import SmtpServer, is_loopback

log = logging.getLogger("leads.email")

QUIT_SECONDS = 2.0
LOOPBACK_TLS_SECONDS = 5.0  # how long STARTTLS may take on loopback, where the session can do without
Judge = Callable[[int, str], Judgement]  # of a refusal's code and text
REPLY_LIMIT = 160  # characters of a server's reply in a reason


@dataclass(slots=True, eq=False)
class SmtpSession:
    """One connection to a mail server.

    until: the deadline of its steps, by the loop's clock. secrets: texts that no reason may quote.
    mails: the number that the server has accepted in this session. is_loopback: whether the server is a
    program of this machine. starttls_failed: whether STARTTLS failed in a session before, so that this one
    goes without.
    """

    server: SmtpServer
    smtp: SMTP
    until: float
    secrets: tuple[str, ...] = field(repr=False)
    mails: int = 0
    is_loopback: bool = False
    starttls_failed: bool = False

    @classmethod
    async def open(
        cls,
        server: SmtpServer,
        tls: ssl.SSLContext | None,
        until: float,
        secrets: tuple[str, ...],
        *,
        starttls_failed: bool = False,
    ) -> "SmtpSession":
        """Connect, greet and encrypt. Raises DeliveryError.

        starttls_failed: whether to leave out STARTTLS where it is optional.
        """
        smtp = SMTP(
            hostname=server.host,  # for TLS, which verifies the certificate for this name
            local_hostname="localhost",  # until the address is known
            use_tls=server.implicit_tls,
            start_tls=False,  # a step of its own, below
            tls_context=tls,
            timeout=None,  # each step has the session's deadline
        )
        session = cls(server, smtp, until, secrets)
        async with aborted_on_error(session):
            async with session.step("connecting", on_5xx=FailureKind.UNREACHABLE):
                await smtp.connect(sock=await connect(server.host, server.port))
            session.is_loopback = is_loopback(smtp.get_transport_info("peername")[0])
            smtp.local_hostname = await helo_name(server, smtp.get_transport_info("sockname")[0])
            async with session.step("EHLO", on_5xx=FailureKind.UNREACHABLE):
                await session._say_hello()
            if starttls_failed and session._tls_is_optional:
                session.starttls_failed = True
                return session
            try:
                await session._encrypt()
                return session
            except DeliveryError as error:
                if not session._tls_is_optional:
                    raise
                reason = error.failure.loggable
                log.warning("STARTTLS failed on loopback; going on unencrypted", extra={"reason": reason})
        session.abort()  # after a failed handshake nothing can be said in it
        return await cls.open(server, tls, until, secrets, starttls_failed=True)

    @property
    def is_new(self) -> bool:
        """Whether no mail was sent in this session before."""
        return self.mails == 0

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS protects the connection."""
        return self.smtp.get_transport_info("sslcontext") is not None

    @asynccontextmanager
    async def step(
        self,
        name: str,
        *,
        on_5xx: FailureKind = FailureKind.UNREACHABLE,
        hint: str = "",
        judge: Judge | None = None,
        otherwise: FailureKind = FailureKind.UNREACHABLE,
        may_have_accepted: bool = False,
        until: float | None = None,
    ) -> AsyncIterator[None]:
        """One step of the session: turn each failure in the block into a DeliveryError.

        on_5xx, hint: the kind of a 5xx, and what the operator can do about it. judge: returns both for any
        refusal, in place of these. otherwise: the kind of any other failure: a lost connection, a timeout.
        may_have_accepted: whether the server may have accepted the mail then. until: a deadline in place of
        the session's.
        """
        # Without the cause: its message quotes the server, and a log would show that.
        try:
            async with asyncio.timeout_at(until or self.until):
                yield
        except SMTPResponseException as error:
            is_of_content = False
            if judge is not None:
                judgement = judge(error.code, error.message)
                kind, hint, is_of_content = judgement.kind, judgement.hint, judgement.is_of_content
            elif not 500 <= error.code <= 599:
                kind, hint = otherwise, ""
            else:
                kind = on_5xx
            answered = f"answered {name} with {error.code}"
            reply = f"{answered} {self.quotable(error.message)}".strip()
            code = f"{answered} {enhanced_code(error.message)}".strip()
            loggable = f"{code}; {hint}" if hint else code
            raise self.error(kind, reply, hint, loggable=loggable, is_of_content=is_of_content) from None
        except TimeoutError:
            what = f"gave no answer in time at {name}"
            raise self.error(otherwise, what, may_have_accepted=may_have_accepted) from None
        except (SMTPException, OSError, ValueError) as error:  # ValueError: a host name like 'a..b'
            what = f"failed at {name}: {self.quotable(system_error_text(error.__cause__ or error))}"
            raise self.error(otherwise, what, may_have_accepted=may_have_accepted) from None

    def error(
        self,
        kind: FailureKind,
        what: str,
        hint: str = "",
        *,
        loggable: str | None = None,
        may_have_accepted: bool = False,
        is_of_content: bool = False,
    ) -> DeliveryError:
        """Return the error to raise: host and port, what the server did, and what the operator can do.

        loggable: what the server did, without its words.
        """
        said = f"{self.server.host}:{self.server.port} {what}"
        hint = "it may have accepted the mail" if may_have_accepted else hint
        return DeliveryError(
            said,
            kind,
            hint=hint,
            loggable=loggable,
            content_sent=may_have_accepted,
            is_of_content=is_of_content,
        )

    async def log_in(self) -> None:
        """Log in, if the settings name a user. Raises DeliveryError."""
        if self.server.user is None:
            return
        hint = "check the user and password in LEADS_SMTP_URL"
        async with self.step("AUTH", on_5xx=FailureKind.NEEDS_OPERATOR, hint=hint):
            if self.server.starttls != "never" and not self._is_private():
                raise self.error(
                    FailureKind.NEEDS_OPERATOR,
                    "offers no encryption, and the password is not sent without",
                    "use smtps:// or, at your own risk, starttls=never in LEADS_SMTP_URL",
                )
            if self.starttls_failed:  # the port may be forwarded to another machine
                raise self.error(
                    FailureKind.NEEDS_OPERATOR,
                    "failed at STARTTLS, and the password is not sent without",
                    "mend its TLS or, at your own risk, use starttls=never in LEADS_SMTP_URL",
                )
            if not self.smtp.supported_auth_methods:
                raise self.error(
                    FailureKind.NEEDS_OPERATOR, "offers no login", "see the user in LEADS_SMTP_URL"
                )
            if self._is_private():  # nobody can listen, so what servers support best comes first
                self.smtp.AUTH_METHODS = ("plain", "login", "cram-md5")
            await self.smtp.login(self.server.user, self.server.password or "")

    async def quit(self) -> None:
        """Send QUIT and close the connection. Ignores errors: every mail was accepted before."""
        try:
            with suppress(SMTPException, OSError):
                async with asyncio.timeout(QUIT_SECONDS):
                    await self.smtp.execute_command(b"QUIT")
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        # SMTP.close() alone keeps a TLS connection open until the server sends its close_notify.
        if self.smtp.transport is not None:
            cast(asyncio.WriteTransport, self.smtp.transport).abort()
        self.smtp.close()

    async def _say_hello(self) -> None:
        try:
            await self.smtp.ehlo()
        except SMTPHeloError as error:
            if error.code not in (500, 502):  # a server that does not know the command
                raise
            await self.smtp.helo()

    async def _encrypt(self) -> None:
        if self.server.implicit_tls or self.server.starttls == "never":
            return
        if self.smtp.supports_extension("starttls"):
            tls, until = self.smtp.tls_context, self.until
            if self._tls_is_optional:
                tls, until = _unverified_tls_context(), min(until, loop_time() + LOOPBACK_TLS_SECONDS)
            # Off loopback nothing follows if it fails: who breaks the handshake could read the mail in plain.
            async with self.step("STARTTLS", on_5xx=FailureKind.UNREACHABLE, until=until):
                await self.smtp.starttls(tls_context=tls)
                await self.smtp.ehlo()
        elif self.server.starttls == "always":
            raise self.error(
                FailureKind.NEEDS_OPERATOR, "offers no STARTTLS", "see starttls= in LEADS_SMTP_URL"
            )

    @property
    def _tls_is_optional(self) -> bool:
        """Whether the session may go without TLS, or with a certificate of anybody, such as Debian's
        self-signed one.
        """
        return self.is_loopback and self.server.starttls == "auto" and not self.server.implicit_tls

    def _is_private(self) -> bool:
        """Whether no other machine can read what is sent."""
        return self.is_encrypted or self.is_loopback

    def quotable(self, reply: str) -> str:
        """Return a server's reply on one line, cut, without the password and the renters' details."""
        folded = reply.casefold()
        for secret in self.secrets:
            if secret.casefold() in folded:  # a pattern for each of a session's renters takes 0.5 ms
                reply = re.sub(re.escape(secret), "***", reply, flags=re.IGNORECASE)
        return one_line(reply, REPLY_LIMIT)


def loop_time() -> float:
    """Return the time by the loop's clock."""
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def aborted_on_error(session: SmtpSession) -> AsyncIterator[None]:
    """Abort the session if the block raises an error."""
    try:
        yield
    except BaseException:
        session.abort()
        raise


def _unverified_tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
