"""Owns the sandbox's mailbox: a real SMTP server in the process that keeps what it is given to itself."""

import asyncio
import email
import email.policy
import re
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from handlers.sandbox.faults import CUT, Faults
from handlers.sandbox.faults import SMTP as SMTP_FAULTS

_REQUEST = re.compile(r"<([0-9a-f]{32})-email@")


class Mailbox:
    """Listens on a loopback port of its own and tells of each mail. What is still on its way about a lead
    that was forgotten is taken in silence.
    """

    def __init__(
        self, is_known: Callable[[str | None], bool], tell: Callable[[dict[str, Any]], None], faults: Faults
    ) -> None:
        """is_known: whether there is a lead that this request brought."""
        self._is_known = is_known
        self._tell = tell
        self._faults = faults
        self.port = 0

    async def start(self) -> None:
        """Listen; `port` is then where."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="localhost", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """aiosmtpd calls this for each mail."""
        assert isinstance(envelope.content, bytes)
        mail = mail_as_dict(envelope.content, envelope.rcpt_tos)
        if not self._is_known(mail["request_id"]):
            return "250 kept"
        fault = self._faults.next_fault(SMTP_FAULTS)
        if fault is not None:
            if fault.status is not None:
                return fault.what if " " in fault.what else f"{fault.what} by the sandbox"
            if fault.what == CUT:
                cast(asyncio.WriteTransport, server.transport).abort()
                return "421 cut"
            await asyncio.sleep(fault.seconds)
        self._tell(mail)
        return "250 kept"

    async def stop(self) -> None:
        """Stop listening."""
        self._server.close()
        await self._server.wait_closed()


def mail_as_dict(raw: bytes, recipients: list[str]) -> dict[str, Any]:
    """A mail as it came and as it looks. request_id: of the request that brought its lead."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    found = _REQUEST.match(str(message["Message-ID"] or ""))
    return {
        "request_id": found and found[1],
        "to": recipients,
        "from": str(message["From"]),
        "reply_to": str(message["Reply-To"] or "") or None,
        "subject": str(message["Subject"]),
        "text": _body(message, "text/plain"),
        "html": _body(message, "text/html"),
        "invitation": _body(message, "text/calendar"),
        "raw": raw.decode(errors="replace"),
    }


def _body(message: EmailMessage, content_type: str) -> str | None:
    for part in message.walk():
        if part.get_content_type() == content_type and not part.is_attachment():
            content: str = part.get_content()
            return content
    return None
