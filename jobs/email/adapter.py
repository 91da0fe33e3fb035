"""The e-mail adapter: sends a lead's mail to the building's agent, and classifies the server's replies."""

import asyncio

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.email.message import render
from jobs.email.mime import mailbox
from jobs.email.smtp import SmtpPool, SmtpSession
from models.outbox.claims import FailureKind
from models.setting_values import SmtpServer

SESSION_SECONDS = 30.0  # from looking up the host to RCPT TO
DATA_SECONDS = 600.0  # for DATA (RFC 5321, 4.5.3.2): an earlier end would send more mails twice


class EmailAdapter(Adapter):
    """Mails a lead to its building's agent through one mail server.

    A connection lost after MAIL FROM is TRANSIENT: the server may have accepted the mail. A second mail has
    the same Message-ID.
    """

    def __init__(
        self,
        server: SmtpServer,
        mail_from: str,
        *,
        session_seconds: float = SESSION_SECONDS,
        data_seconds: float = DATA_SECONDS,
    ) -> None:
        """mail_from: the sender's bare address."""
        self._pool = SmtpPool(server)
        self._mail_from = mail_from
        self._session_seconds, self._data_seconds = session_seconds, data_seconds

    def recipient(self, context: DeliveryContext) -> str | None:
        """As `Adapter.recipient`."""
        return context.address

    async def deliver(self, context: DeliveryContext) -> str:
        """As `Adapter.deliver`."""
        agent = _agent_address(context)
        lead = context.lead
        renter = [
            text or "" for text in (lead["requestor_email"], lead["requestor_name"], lead["requestor_phone"])
        ]
        until = asyncio.get_running_loop().time() + self._session_seconds
        while True:
            async with self._pool.acquire(until, renter) as session:
                try:
                    mail = await self._begin_mail(session, context, agent)
                except DeliveryError:
                    if session.is_new:
                        raise
                    session.abort()
                    continue  # the server may only refuse more mail in this session: try another one
                return await self._send_data(session, mail)

    async def close(self) -> None:
        """Quit the sessions that are kept."""
        await self._pool.close()

    async def _begin_mail(self, session: SmtpSession, context: DeliveryContext, agent: str) -> bytes:
        """Send MAIL FROM and RCPT TO, and return the mail for DATA.

        A 421 counts against the delivery too. One mail that always gets a 421 would otherwise block all
        others for good.
        """
        smtp = session.smtp
        # Requested only if the sender's or the agent's address needs it: a later server without SMTPUTF8
        # would bounce the whole mail. Otherwise a renter's Reply-To is left out; the text has that address.
        needed = not (self._mail_from.isascii() and agent.isascii())
        utf8 = needed and smtp.supports_extension("smtputf8")
        sender, recipient = mailbox(self._mail_from, utf8=utf8), mailbox(agent, utf8=utf8)
        if sender is None:
            raise session.error(
                FailureKind.NEEDS_OPERATOR, "accepts only ASCII addresses", "set another LEADS_MAIL_FROM"
            )
        if recipient is None:
            raise session.error(
                FailureKind.PERMANENT,
                "accepts only ASCII addresses, and the agent's is not ASCII",
                "set another with 'building update' and retry",
            )
        mail = render(context, self._mail_from, utf8=utf8)
        options = [] if mail.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
        async with session.step(
            "MAIL FROM",
            # A 5xx may refuse the options, which only this agent's address needs.
            on_5xx=FailureKind.PERMANENT if options else FailureKind.NEEDS_OPERATOR,
            on_421=FailureKind.AMBIGUOUS,
            otherwise=FailureKind.TRANSIENT,
            hint="check LEADS_MAIL_FROM, and the user in LEADS_SMTP_URL",
        ):
            await smtp.mail(sender, options=options, encoding="utf-8")
        async with session.step(
            "RCPT TO",
            on_5xx=FailureKind.PERMANENT,
            on_421=FailureKind.AMBIGUOUS,
            otherwise=FailureKind.TRANSIENT,
        ):
            await smtp.rcpt(recipient, encoding="utf-8")
        return mail

    async def _send_data(self, session: SmtpSession, mail: bytes) -> str:
        async with session.step(
            "DATA",
            on_5xx=FailureKind.PERMANENT,
            on_421=FailureKind.AMBIGUOUS,
            otherwise=FailureKind.TRANSIENT,
            hint_otherwise="it may have accepted the mail",
            until=asyncio.get_running_loop().time() + self._data_seconds,
        ):
            reply = await session.smtp.data(mail)
        return session.quotable(f"{reply.code} {reply.message}")


def _agent_address(context: DeliveryContext) -> str:
    if context.recipient is not None:
        return context.recipient
    if context.building is None:
        raise DeliveryError(
            "no building matched the lead, so the mail has no recipient", FailureKind.PERMANENT
        )
    agent = context.building["agent_email"]
    if not agent:
        raise DeliveryError(
            "the building has no agent e-mail; set one with 'building update' and retry",
            FailureKind.PERMANENT,
        )
    return agent
