"""Sessions with a mail server: the pool that keeps one for the next mail, and checks of a login."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from jobs.email.smtp import SmtpSession, aborted_on_error, loop_time
from models.setting_values import SmtpServer

KEEP_SECONDS = 1.0  # how long a session is kept for another mail; servers close idle sessions after minutes
REUSE_SECONDS = 5.0  # how long a kept session may take to accept a mail's first commands
MAX_MAILS = 50  # in one session; some servers accept no more than 100


class SmtpPool:
    """Sessions with one server. A session is kept for a moment after a mail, so that a burst of mails needs
    one handshake and one login.
    """

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._tls = _tls_context(server)  # made once: that reads hundreds of certificates
        self._kept: list[SmtpSession] = []
        self._quitting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def acquire(self, until: float, renter: Iterable[str]) -> AsyncIterator[SmtpSession]:
        """A logged-in session for one mail: a kept one, else a new one.

        until: the deadline of a new session, by the loop's clock. renter: texts that no reason may quote,
        besides the password. A kept session may be stale: whether it is, its first commands show. After the
        block the session is kept for the next mail, unless an error or `abort` ended it.

        Raises DeliveryError.
        """
        secrets = _secrets(self._server, renter)
        session = self._reuse(secrets)
        if session is None:
            session = await SmtpSession.open(self._server, self._tls, until, secrets)
        async with aborted_on_error(session):
            if session.is_new:
                await session.log_in()
            yield session
        self._release(session)

    async def close(self) -> None:
        """Quit the kept sessions."""
        while self._kept:
            self._quit(self._kept.pop())
        if self._quitting:
            await asyncio.wait(self._quitting)

    def _reuse(self, secrets: tuple[str, ...]) -> SmtpSession | None:
        if not self._kept:
            return None
        session = self._kept.pop()
        session.until = loop_time() + REUSE_SECONDS
        # Those of earlier renters remain: the server may quote their mail.
        session.secrets = _longest_first({*session.secrets, *secrets})
        return session

    def _release(self, session: SmtpSession) -> None:
        if not session.smtp.is_connected:
            session.abort()
            return
        session.mails += 1
        if session.mails >= MAX_MAILS:
            self._quit(session)
        else:
            self._kept.append(session)
            asyncio.get_running_loop().call_later(KEEP_SECONDS, self._quit_if_kept, session, session.mails)

    def _quit_if_kept(self, session: SmtpSession, mails: int) -> None:
        if session in self._kept and session.mails == mails:  # else a later mail has used it
            self._kept.remove(session)
            self._quit(session)

    def _quit(self, session: SmtpSession) -> None:
        task = asyncio.create_task(session.quit())
        self._quitting.add(task)
        task.add_done_callback(self._quitting.discard)


async def check_login(server: SmtpServer, deadline: float) -> bool:
    """Log in to the server as before a mail, and quit. Return whether the session was encrypted.

    deadline: in seconds, for all of it. Raises DeliveryError.
    """
    async with _temporary_session(server, deadline) as session:
        await session.log_in()
        return session.is_encrypted


async def peer_certificate(server: SmtpServer, deadline: float) -> dict[str, Any] | None:
    """Return the server's certificate in the form that `ssl` gives it; None without encryption.

    It is verified, except on loopback: there it is {} if `starttls` is auto. deadline: in seconds, for all of
    it. Raises DeliveryError.
    """
    async with _temporary_session(server, deadline) as session:
        certificate: dict[str, Any] | None = session.smtp.get_transport_info("peercert")
        return certificate


@asynccontextmanager
async def _temporary_session(server: SmtpServer, deadline: float) -> AsyncIterator[SmtpSession]:
    """A session outside a pool, not logged in; it is closed after the block."""
    until = loop_time() + deadline
    session = await SmtpSession.open(server, _tls_context(server), until, _secrets(server))
    async with aborted_on_error(session):
        yield session
    await session.quit()


def _tls_context(server: SmtpServer) -> ssl.SSLContext | None:
    never = server.starttls == "never" and not server.implicit_tls
    return None if never else ssl.create_default_context()


def _secrets(server: SmtpServer, renter: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the texts that a server's reply may quote and a reason must not: the password and the renter's
    details.
    """
    texts = list(renter)
    if server.user:
        user, password = server.user, server.password or ""
        sent = [f"\0{user}\0{password}", password]  # as AUTH PLAIN and AUTH LOGIN send it
        texts += [password, *(b64encode(text.encode()).decode() for text in sent)]
    # A text as short as 'A' would mask most of the reply.
    return _longest_first({text.strip() for text in texts if len(text.strip()) > 2})


def _longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(secrets, key=len, reverse=True))  # a shorter one may be part of a longer one
