"""Mail servers of the tests: a real one by aiosmtpd, and scripts for replies that no real one would send."""

import asyncio
import email
import email.policy
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

PASSWORD = "correct horse"
POISON = "Mallory"


class Mailbox:
    """aiosmtpd handler: keep each accepted mail, or give a command the reply that was set for it."""

    def __init__(self, password: str | None = PASSWORD, **replies: str) -> None:
        """password: of every user. replies: by command, AUTH, MAIL, RCPT or DATA."""
        self.password = password
        self._replies = replies
        self.envelopes: list[Any] = []
        self.encrypted: list[bool] = []  # of each envelope: whether it came by TLS
        self.logins: list[tuple[bytes, bytes]] = []

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any
    ) -> AuthResult:
        if "AUTH" in self._replies:
            return AuthResult(success=False, handled=False, message=self._replies["AUTH"])
        assert isinstance(login, LoginPassword)
        self.logins.append((login.login, login.password))
        return AuthResult(success=login.password == (self.password or "").encode(), handled=False)

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        envelope.mail_from = address
        envelope.mail_options += options
        return self._replies.get("MAIL", "250 OK")

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        envelope.rcpt_tos.append(address)
        return self._replies.get("RCPT", "250 OK")

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        reply = self._replies.get("DATA", "250 OK")
        if reply.startswith("250"):
            self.envelopes.append(envelope)
            self.encrypted.append(session.ssl is not None)
        return reply


class MailServer(Mailbox):
    """A mail server on a port of its own, with faults that a test switches on while it runs."""

    def __init__(self) -> None:
        super().__init__(password=None)  # set: a login is required
        self.mails: list[EmailMessage] = []  # of each envelope
        self.replies: list[str] = []  # to the next mails
        self.refused: dict[str, str] = {}  # replies to mails for these recipients
        self.poison: str | None = None  # the reply to mails with POISON in them; "lost" or "silent" for none
        self.poison_text: str | None = None  # mails with this in their text are refused for good
        self.poisoned = 0  # mails that were refused for it
        self.unknown: set[str] = set()  # recipients that are refused
        self.deaths = 0  # after how many of the next mails the connection is lost instead of a reply
        self.gate = asyncio.Event()  # while it is cleared, no mail gets its reply
        self.gate.set()
        self.at_once = self.most_at_once = 0  # connections

    @property
    def raw(self) -> list[bytes]:
        """The content of each mail as it came."""
        return [envelope.content for envelope in self.envelopes]

    @property
    def recipients(self) -> list[list[str]]:
        """The recipients of each mail."""
        return [envelope.rcpt_tos for envelope in self.envelopes]

    async def start(self, port: int = 0) -> None:
        """Listen on this port, or on a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self, loop), "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"smtp://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Stop listening. Open connections go on."""
        self._server.close()
        await self._server.wait_closed()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.unknown:
            return "550 5.1.1 no such user here"
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await self.gate.wait()
        if reply := self.refused.get(envelope.rcpt_tos[0]):
            return reply
        if self.replies:
            return self.replies.pop(0)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        if self.poison_text is not None and self.poison_text in _text(message):
            return "554 5.6.0 bad content"
        if self.poison is not None and POISON in str(message["Subject"]):
            self.poisoned += 1
            if self.poison == "silent":
                await asyncio.get_running_loop().create_future()
            if self.poison == "lost":
                server.transport.abort()
            return self.poison
        self.mails.append(message)
        if self.deaths:
            self.deaths -= 1
            server.transport.abort()
        return await super().handle_DATA(server, session, envelope)


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    return str(body.get_content()) if body is not None else ""


class _Session(SMTP):
    """One connection to a MailServer."""

    def __init__(self, mail: MailServer, loop: asyncio.AbstractEventLoop) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about passwords without TLS
            super().__init__(
                mail,
                hostname="mail.test",
                enable_SMTPUTF8=True,
                loop=loop,
                authenticator=mail.authenticate if mail.password else None,
                auth_required=bool(mail.password),
                auth_require_tls=False,
            )
        self._mail = mail

    def connection_made(self, transport: Any) -> None:
        self._mail.at_once += 1
        self._mail.most_at_once = max(self._mail.most_at_once, self._mail.at_once)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._mail.at_once -= 1
        super().connection_lost(error)


@asynccontextmanager
async def listening(
    protocol: Callable[[], asyncio.Protocol], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve a protocol on a free port, which is yielded. The block ends once all connections are closed."""
    connected: set[asyncio.Protocol] = set()

    def watched() -> asyncio.Protocol:
        made = protocol()
        begin, end = made.connection_made, made.connection_lost

        def connection_made(transport: asyncio.BaseTransport) -> None:
            connected.add(made)
            begin(transport)

        def connection_lost(error: Exception | None) -> None:
            end(error)
            connected.discard(made)

        made.connection_made, made.connection_lost = connection_made, connection_lost  # type: ignore
        return made

    server = await asyncio.get_running_loop().create_server(watched, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while connected:
            await asyncio.sleep(0.001)


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def answers(*replies: str | None, then: str = "close") -> Script:
    """Return a script that greets with the first reply and sends one more after each line.

    After the last one it closes the connection; then="silence": it reads on, and sends nothing.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        in_data = False
        for number, reply in enumerate(replies):
            if number:
                line = await reader.readline()
                while in_data and line not in (b".\r\n", b""):
                    line = await reader.readline()
            in_data = bool(reply and reply.startswith("354"))
            if reply is not None:
                writer.write(reply.encode("utf-8", "surrogateescape") + b"\r\n")
        if then == "silence" or replies[-1:] == ("354 go on",):
            while line := await reader.readline():
                if then == "close" and line == b".\r\n":
                    break
        writer.close()

    return talk
