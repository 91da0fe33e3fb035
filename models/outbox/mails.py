"""The mails about one lead: which addresses have them, and how an operator adds and cancels some."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from models.building import Building
from models.email_address import stored_comparison_key
from models.lead import Lead
from models.outbox.claims import CUT_OFF
from models.outbox.delivery import (
    DELIVERED,
    FAILED,
    NEW_LEAD,
    PENDING,
    QUARANTINED,
    SENDING,
    SKIPPED,
    TAKEN_AWAY,
    Delivery,
    DeliveryAttempt,
    initial_state,
)
from models.outbox.destination import EMAIL

GIVEN_AWAY = "the lead was given to another building"
GIVEN_BACK = "the lead was given back to this address"
WITHDRAWN = (GIVEN_AWAY, GIVEN_BACK)  # why a mail that an operator's later action contradicts is skipped


class LeadMails:
    """The mails about a lead, as they were when this was made, in the transaction that changes them.

    A mail whose recipient is null is for the agent of the building that the lead had then.
    """

    def __init__(self, lead: Lead) -> None:
        self._lead = lead
        self._agent: str | None = lead.building.agent_email if lead.building else None
        rows = Delivery.select().where(Delivery.lead == lead, Delivery.kind == EMAIL)
        self._mails: list[Delivery] = list(rows.order_by(Delivery.id))
        self._attempts: dict[int, list[DeliveryAttempt]] = {}
        attempts = DeliveryAttempt.select().where(
            DeliveryAttempt.delivery.in_([mail.id for mail in self._mails])
        )
        for attempt in attempts.order_by(DeliveryAttempt.number):
            self._attempts.setdefault(attempt.delivery_id, []).append(attempt)

    def holders(self) -> list[str]:
        """Return the addresses that have the lead: a mail about it left to them, or may have.

        An address that it was taken away from since is none of them.
        """
        holders: dict[str, str] = {}
        for mail in self._mails:
            if mail.content != TAKEN_AWAY:
                holders.update({stored_comparison_key(to): to for to in self._reached(mail)})
            elif mail.state != SKIPPED or self._reached(mail):
                holders.pop(stored_comparison_key(mail.recipient or ""), None)
        return list(holders.values())

    def first_unsent(self) -> Delivery | None:
        """Return the lead's first mail if no mail about the lead can have left, else None."""
        return self._mails[0] if self._mails and not self.have_left() else None

    def have_left(self) -> bool:
        """Return True if any mail about the lead left, or may have."""
        return any(map(self._may_have_left, self._mails))

    def was_taken_from(self, address: str) -> bool:
        """Return True if a mail that took the lead away from this address left, or may have."""
        return any(
            mail.content == TAKEN_AWAY and self._is_to(mail, address) and self._may_have_left(mail)
            for mail in self._mails
        )

    def unfinished_to(self, address: str) -> Delivery | None:
        """Return a mail with the whole lead to this address that waits or is being sent, or the newest if it
        failed.
        """
        found = [mail for mail in self._mails if mail.content == NEW_LEAD and self._is_to(mail, address)]
        waiting = [mail for mail in found if mail.state in (PENDING, SENDING)]
        failed = [mail for mail in found[-1:] if mail.state == FAILED]
        return next(iter(waiting or failed), None)

    def is_quarantined(self) -> bool:
        """Return True if a mail about the lead is quarantined."""
        return any(mail.state == QUARANTINED for mail in self._mails)

    def is_any_unsent(self) -> bool:
        """Return True if a mail that did not leave yet will bring the lead as it then is to anybody."""
        return any(
            mail.state in (PENDING, QUARANTINED)
            and mail.content != TAKEN_AWAY
            and not self._may_have_left(mail)
            for mail in self._mails
        )

    def waits_for(self, address: str) -> bool:
        """Return True if a mail that did not leave yet will bring the lead as it then is to this address."""
        return any(
            mail.state == PENDING
            and mail.content != TAKEN_AWAY
            and not self._may_have_left(mail)
            and self._is_to(mail, address)
            for mail in self._mails
        )

    def add(
        self,
        content: str,
        recipient: str | None,
        now: datetime,
        *,
        skip_reason: str | None = None,
        quarantine_reason: str | None = None,
        building: Building | None = None,
        told_slot: str | None = None,
    ) -> Delivery:
        """Put a mail into the outbox, and return it.

        building: that it names, in place of the lead's. told_slot: the time of the tour that earlier mails
        told.
        """
        state, reason, due_at, settled_at = initial_state(skip_reason, quarantine_reason, now)
        return Delivery.create(
            lead=self._lead,
            kind=EMAIL,
            content=content,
            recipient=recipient,
            building=building,
            told_slot=told_slot,
            state=state,
            reason=reason,
            due_at=due_at,
            settled_at=settled_at,
        )

    def withdraw(self, now: datetime, keep: Delivery | None = None) -> None:
        """Skip all mails with the lead or its tour that were not delivered, except one.

        A mail that is being sent may arrive. It is not retried if it does not.
        """
        self._skip(
            (
                m
                for m in self._mails
                if m.content != TAKEN_AWAY and m.state != DELIVERED and (keep is None or m.id != keep.id)
            ),
            GIVEN_AWAY,
            now,
        )

    def give_back(self, address: str, now: datetime) -> None:
        """Skip the mails that take the lead away from this address and were not delivered."""
        self._skip(
            (
                m
                for m in self._mails
                if m.content == TAKEN_AWAY and m.state != DELIVERED and self._is_to(m, address)
            ),
            GIVEN_BACK,
            now,
        )

    def _skip(self, mails: Iterable[Delivery], reason: str, now: datetime) -> None:
        skipped = {"state": SKIPPED, "reason": reason, "due_at": None, "settled_at": now}
        Delivery.update(skipped).where(Delivery.id.in_([mail.id for mail in mails])).execute()

    def _is_to(self, mail: Delivery, address: str) -> bool:
        to = mail.recipient or self._agent
        return to is not None and stored_comparison_key(to) == stored_comparison_key(address)

    def _may_have_left(self, mail: Delivery) -> bool:
        # Before schema 7 sent_at was not kept.
        return mail.sent_at is not None or mail.state in (SENDING, DELIVERED) or bool(self._arrivals(mail))

    def _reached(self, mail: Delivery) -> list[str]:
        """Return the addresses that the mail left to, or may have left to."""
        if not self._may_have_left(mail):
            return []
        # An attempt that failed may have reached its recipient too, if no attempt is known to have.
        attempts = self._arrivals(mail) or self._attempts.get(mail.id, [])[-1:]
        found = [attempt.recipient or mail.recipient or self._agent for attempt in attempts]
        return [address for address in found if address]

    def _arrivals(self, mail: Delivery) -> Sequence[DeliveryAttempt]:
        """Return the attempts that delivered the mail, and those whose outcome is not known."""
        outcomes = (None, DELIVERED, CUT_OFF)
        return [attempt for attempt in self._attempts.get(mail.id, []) if attempt.outcome in outcomes]
