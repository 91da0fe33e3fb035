"""Owns handing a lead's mail to the mail server: whom it is for, and what each refusal means."""

import asyncio

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.email.message import mailbox, render
from jobs.email.smtp import SmtpPool, SmtpSession
from models.outbox.claims import FailureKind
from models.settings import SmtpServer

DEADLINE = 30.0  # seconds for the conversation, from looking up the host to the recipient
DATA_DEADLINE = 600.0  # seconds for the mail itself (RFC 5321, 4.5.3.2): given up too soon it arrives twice


class EmailAdapter(Adapter):
    """Mails a context's lead to its building's agent, from mail_from, by this server.

    The deadlines are in seconds. Lost after MAIL FROM the verdict is that it may pass: the mail may have been
    taken, and a second will have the same Message-ID.
    """

    def __init__(
        self,
        server: SmtpServer,
        mail_from: str,
        *,
        deadline: float = DEADLINE,
        data_deadline: float = DATA_DEADLINE,
    ) -> None:
        self._pool = SmtpPool(server)
        self._mail_from = mail_from
        self._deadline, self._data_deadline = deadline, data_deadline

    async def deliver(self, context: DeliveryContext) -> None:
        agent = _agent_of(context)
        lead = context.lead
        renter = [
            text or "" for text in (lead["requestor_email"], lead["requestor_name"], lead["requestor_phone"])
        ]

        async def opening(session: SmtpSession) -> bytes:
            return await _address(session, context, self._mail_from, agent)

        async with self._pool.one(self._deadline, renter, opening) as (session, mail):
            await _hand_over(session, mail, self._data_deadline)

    async def close(self) -> None:
        await self._pool.close()


def _agent_of(context: DeliveryContext) -> str:
    if context.building is None:
        raise DeliveryError("no building matched the lead, so there is nobody to tell", FailureKind.PERMANENT)
    agent = context.building["agent_email"]
    if not agent:
        raise DeliveryError(
            "the building has no agent e-mail; set one with 'building update' and retry",
            FailureKind.PERMANENT,
        )
    return agent


async def _address(session: SmtpSession, context: DeliveryContext, mail_from: str, agent: str) -> bytes:
    """MAIL FROM and RCPT TO; gives the mail that is to follow. A 421 here may be for this mail alone: without
    counting it, one such mail would hold up all others for good.
    """
    smtp = session.smtp
    # Asked for only if our own side's addresses need it: a server further on that doesn't speak it would
    # send the whole lead back. What is left out for it otherwise is a renter's Reply-To; the text has it.
    needed = not (mail_from.isascii() and agent.isascii())
    utf8 = needed and smtp.supports_extension("smtputf8")
    sender, recipient = mailbox(mail_from, utf8=utf8), mailbox(agent, utf8=utf8)
    if sender is None:
        raise session.problem(
            FailureKind.NEEDS_OPERATOR, "takes ASCII addresses alone", "set another LEADS_MAIL_FROM"
        )
    if recipient is None:
        raise session.problem(
            FailureKind.PERMANENT,
            "takes ASCII addresses alone, and the agent's is not one",
            "set another with 'building update' and retry",
        )
    mail = render(context, mail_from, utf8=utf8)
    options = [] if mail.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
    hint = "check LEADS_MAIL_FROM, and the user in LEADS_SMTP_URL"
    # With an option that only this agent's address asks for, it is this mail that is refused.
    refused = FailureKind.PERMANENT if options else FailureKind.NEEDS_OPERATOR
    async with session.step(
        "MAIL FROM", lost=FailureKind.TRANSIENT, refused=refused, closing=FailureKind.AMBIGUOUS, hint=hint
    ):
        await smtp.mail(sender, options=options, encoding="utf-8")
    async with session.step(
        "RCPT TO", lost=FailureKind.TRANSIENT, refused=FailureKind.PERMANENT, closing=FailureKind.AMBIGUOUS
    ):
        await smtp.rcpt(recipient, encoding="utf-8")
    return mail


async def _hand_over(session: SmtpSession, mail: bytes, data_deadline: float) -> None:
    """DATA. From here on what is lost may have arrived."""
    async with session.step(
        "DATA",
        lost=FailureKind.TRANSIENT,
        refused=FailureKind.PERMANENT,
        closing=FailureKind.AMBIGUOUS,
        lost_hint="it may have taken the mail",
        until=asyncio.get_running_loop().time() + data_deadline,
    ):
        await session.smtp.data(mail)
