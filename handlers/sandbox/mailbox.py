"""The sandbox's mailbox: an SMTP server in the sandbox's process that keeps every mail."""

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

_REQUEST_ID = re.compile(r"<([0-9a-f]{32})-email(?:-[0-9]+)?@")


class Mailbox:
    """SMTP server on a free loopback port. It accepts and ignores mails about leads that a reset deleted."""

    def __init__(
        self,
        has_lead: Callable[[str | None], bool],
        on_mail: Callable[[dict[str, Any]], None],
        faults: Faults,
    ) -> None:
        """has_lead: whether the request of this id created a lead. on_mail: is called with each mail."""
        self._has_lead = has_lead
        self._on_mail = on_mail
        self._faults = faults
        self.port = 0

    async def start(self) -> None:
        """Listen, and set `port`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="localhost", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Return the SMTP reply to a mail. aiosmtpd calls this."""
        assert isinstance(envelope.content, bytes)
        mail = mail_as_dict(envelope.content, envelope.rcpt_tos)
        if not self._has_lead(mail["request_id"]):
            return "250 kept"
        fault = self._faults.next_fault(SMTP_FAULTS)
        if fault is not None:
            if fault.status is not None:
                return fault.what if " " in fault.what else f"{fault.what} by the sandbox"
            if fault.what == CUT:
                cast(asyncio.WriteTransport, server.transport).abort()
                return "421 cut"
            await asyncio.sleep(fault.seconds)
        if self._has_lead(mail["request_id"]):  # a reset may have deleted it meanwhile
            self._on_mail(mail)
        return "250 kept"

    async def stop(self) -> None:
        """Stop listening."""
        self._server.close()
        await self._server.wait_closed()


def mail_as_dict(raw: bytes, recipients: list[str]) -> dict[str, Any]:
    """Return a mail's headers, bodies and raw text. request_id: of the request that created its lead."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    match = _REQUEST_ID.match(str(message["Message-ID"] or ""))
    return {
        "request_id": match and match[1],
        "to": recipients,
        "from": str(message["From"]),
        "reply_to": str(message["Reply-To"] or "") or None,
        "subject": str(message["Subject"]),
        "text": _body(message, "text/plain"),
        "html": _body(message, "text/html"),
        "invitation": _invitation(message),
        "raw": raw.decode(errors="replace"),
    }


def _invitation(message: EmailMessage) -> str | None:
    for part in message.iter_attachments():
        if part.get_content_type() == "application/ics":
            content: bytes = part.get_content()
            return content.decode()
    return None


def _body(message: EmailMessage, content_type: str) -> str | None:
    for part in message.walk():
        if part.get_content_type() == content_type and not part.is_attachment():
            content: str = part.get_content()
            return content
    return None
