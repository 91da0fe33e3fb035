"""The e-mail adapter: sends a lead's mail to the building's agent, and classifies the server's replies."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.email.message import render, render_digest
from jobs.email.mime import mailbox
from jobs.email.pool import SmtpPool
from jobs.email.replies import Judgement, Stage, classify
from jobs.email.smtp import SmtpSession, loop_time
from models.clock import Clock
from models.outbox.outcomes import FailureKind
from models.setting_values import SmtpServer

SESSION_SECONDS = 30.0  # from looking up the host to RCPT TO
ACCEPTED_WITHIN = timedelta(hours=1)  # an accepted recipient shows that the server takes this client's mail
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
        clock: Clock | None = None,
        session_seconds: float = SESSION_SECONDS,
        data_seconds: float = DATA_SECONDS,
    ) -> None:
        """mail_from: the sender's bare address."""
        self._pool = SmtpPool(server)
        self._mail_from = mail_from
        self._clock = clock or Clock()
        self._accepted = AcceptedRecipients()
        self._session_seconds, self._data_seconds = session_seconds, data_seconds

    def recipient(self, context: DeliveryContext) -> str | None:
        """As `Adapter.recipient`."""
        return context.address

    async def deliver(self, context: DeliveryContext) -> str:
        """As `Adapter.deliver`."""
        return await self._send([context])

    async def deliver_digest(self, contexts: Sequence[DeliveryContext]) -> str:
        """As `Adapter.deliver_digest`. All contexts have the same address."""
        return await self._send(contexts)

    async def _render(self, contexts: Sequence[DeliveryContext], *, utf8: bool) -> bytes:
        if len(contexts) == 1:
            return render(contexts[0], self._mail_from, utf8=utf8)
        stable_id = f"{contexts[0].stable_id}-digest-{len(contexts)}"
        # In a thread: a digest takes up to 0.3 s, and requests wait for the loop.
        return await asyncio.to_thread(render_digest, contexts, stable_id, self._mail_from, utf8=utf8)

    async def _send(self, contexts: Sequence[DeliveryContext]) -> str:
        """Send one mail."""
        agent = _agent_address(contexts[0])
        renter = [
            text or ""
            for lead in (context.lead for context in contexts)
            for text in (lead["requestor_email"], lead["requestor_name"], lead["requestor_phone"])
        ]
        until = loop_time() + self._session_seconds
        while True:
            async with self._pool.acquire(until, renter) as session:
                try:
                    mail = await self._begin_mail(session, agent, contexts)
                except DeliveryError:
                    if session.is_new:
                        raise
                    session.abort()
                    continue  # the server may only refuse more mail in this session: try another one
                return await self._send_data(session, mail, agent)

    async def close(self) -> None:
        """Quit the sessions that are kept."""
        await self._pool.close()

    async def _begin_mail(
        self, session: SmtpSession, agent: str, contexts: Sequence[DeliveryContext]
    ) -> bytes:
        """Send MAIL FROM and RCPT TO, and return the mail for DATA."""
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
        mail = await self._render(contexts, utf8=utf8)
        options = [] if mail.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
        async with self._step(session, Stage.MAIL, agent, uses_smtputf8=bool(options)):
            await smtp.mail(sender, options=options, encoding="utf-8")
        async with self._step(session, Stage.RCPT, agent):
            await smtp.rcpt(recipient, encoding="utf-8")
        self._accepted.add(agent, self._clock.now())
        return mail

    async def _send_data(self, session: SmtpSession, mail: bytes, agent: str) -> str:
        until = loop_time() + self._data_seconds
        async with self._step(session, Stage.DATA, agent, may_have_accepted=True, until=until):
            reply = await session.smtp.data(mail)
        return session.quotable(f"{reply.code} {reply.message}")

    def _step(
        self, session: SmtpSession, stage: Stage, agent: str, *, uses_smtputf8: bool = False, **options: Any
    ) -> AbstractAsyncContextManager[None]:
        def judge(code: int, text: str) -> Judgement:
            accepts_others = self._accepted.has_other_than(agent, self._clock.now())
            return classify(stage, code, text, accepts_others=accepts_others, uses_smtputf8=uses_smtputf8)

        return session.step(stage.value, judge=judge, otherwise=FailureKind.TRANSIENT, **options)


class AcceptedRecipients:
    """The recipients that the server accepted last: two are enough to tell of another than a given one."""

    def __init__(self) -> None:
        self._times: dict[str, datetime] = {}

    def add(self, address: str, now: datetime) -> None:
        """Note that the server accepted this recipient."""
        self._times.pop(address, None)
        self._times[address] = now
        if len(self._times) > 2:
            del self._times[next(iter(self._times))]

    def has_other_than(self, address: str, now: datetime) -> bool:
        """Return True if the server accepted another recipient within the hour."""
        return any(
            other != address and timedelta(0) <= now - at <= ACCEPTED_WITHIN
            for other, at in self._times.items()
        )


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
