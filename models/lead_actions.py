"""Actions of operators on leads: assign, send again, correct the tour, release from quarantine.

Each begins by locking the lead and its deliveries. So no other action and no server changes them meanwhile.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from models.audit import Actor, record_action
from models.building import Building, find_building
from models.clock import utc_text, utc_text_or_none
from models.email_address import normal_form, stored_comparison_key
from models.errors import Conflict, Invalid, NotFound
from models.intake import in_utc, unnotified_reason_of
from models.lead import Lead
from models.outbox.delivery import (
    CHANGED_TOUR,
    ERASED,
    FAILED,
    NEW_LEAD,
    QUARANTINED,
    SENDING,
    TAKEN_AWAY,
    Delivery,
    initial_state,
    lock_deliveries,
)
from models.outbox.destination import EMAIL, Destination, why_waiting
from models.outbox.mails import LeadMails
from models.slot import Remark, Slot, parse_slot, read_stored_slot
from models.spam import why_quarantined
from models.storage.rows import locked

AFTER_CANCELLATION = (
    2  # a cancellation has one more than the lead's sequence, and calendars want more than that
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A lead's new building, and the reason why its mail does not leave now, if there is one.

    not_told: why no agent is mailed; waits_because: why the mail waits. taken_from: the addresses that had
    the lead, and are mailed that it was taken away.
    """

    building: Building
    not_told: str | None
    waits_because: str | None
    taken_from: list[str]


@dataclass(frozen=True, slots=True)
class SentAgain:
    """A new mail with a lead. waits_because: why it does not leave now, if there is a reason."""

    delivery_id: int
    recipient: str
    waits_because: str | None


@dataclass(frozen=True, slots=True)
class Correction:
    """The corrected time of a lead's tour; None if there is no tour. is_date: of a tour without an hour.

    mailed: the addresses that had the lead, and are mailed the correction. waits_because: why that waits.
    is_unsent: whether an earlier mail waits, and will leave with the correction.
    """

    slot: datetime | None
    is_date: bool
    remarks: frozenset[Remark]
    mailed: list[str]
    waits_because: str | None
    is_unsent: bool


def assign_lead(actor: Actor, lead_id: int, building_id: int, now: datetime) -> Assignment:
    """Give a lead to a building, and queue the mails to its agent and to those who had the lead.

    Raises NotFound for an unknown lead or building, Conflict if the lead is the building's or was erased.
    """
    building = find_building(building_id, for_update=True)
    lead = _find(lead_id, "unknown_lead_to_assign")
    if lead.building_id == building.id:
        raise Conflict(f"lead {lead_id} is of building {lead.building_id} already")
    _refuse_erased(lead)
    mails = LeadMails(lead)
    holders, first_unsent, earlier = mails.holders(), mails.first_unsent(), lead.building
    told_slot = _told_slot(lead)
    _move(lead, building, mails)
    taken_from = [to for to in holders if not _is_same(to, building.agent_email)]
    skip_reason = unnotified_reason_of(lead.customer, building)
    quarantine_reason = why_quarantined(lead.suspected, building)
    mails.withdraw(now, keep=first_unsent)
    if building.agent_email:
        mails.give_back(building.agent_email, now)
    for address in taken_from:
        mails.add(TAKEN_AWAY, address, now, building=earlier, told_slot=told_slot)
    if first_unsent is None:
        mails.add(
            NEW_LEAD,
            building.agent_email,
            now,
            skip_reason=skip_reason,
            quarantine_reason=quarantine_reason,
        )
    else:
        _restart(first_unsent, skip_reason, quarantine_reason, now)
    record_action(actor, "lead.assign", "lead", lead_id, now, ["building_id"])
    not_told = skip_reason or quarantine_reason
    waits_because = _why_mail_waits(now) if taken_from or not not_told else None
    return Assignment(building, not_told, waits_because, taken_from)


def _move(lead: Lead, building: Building, mails: LeadMails) -> None:
    """Set the building. The tour's sequence rises for calendars: they get a cancellation or another time."""
    before = lead.slot
    lead.building = building
    if slot := read_stored_slot(lead.slot_text):
        # Without an offset it was read in the earlier building's time zone, or as UTC for want of one.
        lead.slot = in_utc(slot, building)
    if building.agent_email and mails.was_taken_from(building.agent_email):
        lead.tour_sequence += AFTER_CANCELLATION
    elif mails.have_left() or lead.slot != before:
        lead.tour_sequence += 1
    lead.save(only=[Lead.building, Lead.slot, Lead.tour_sequence])


def _restart(mail: Delivery, skip_reason: str | None, quarantine_reason: str | None, now: datetime) -> None:
    mail.state, mail.reason, mail.due_at, mail.settled_at = initial_state(skip_reason, quarantine_reason, now)
    mail.failures, mail.refused, mail.digest = 0, False, None  # what it met was the earlier agent's
    mail.save()


def send_lead(actor: Actor, lead_id: int, address: str | None, now: datetime) -> SentAgain:
    """Queue one more mail with a lead, to this address; None for the building's agent.

    Raises NotFound; Invalid for a bad address; Conflict if the lead has no building or nobody to mail, was
    erased, looks like spam, or has a mail to that address that waits or failed.
    """
    lead = _find(lead_id)
    _refuse_erased(lead)
    recipient = None if address is None else _checked_address(address)
    building = lead.building
    if building is None:
        raise Conflict(f"lead {lead_id} has no building", "unassigned", lead=lead_id)
    recipient = recipient or building.agent_email
    if not recipient:
        raise Conflict(f"building {building.id} has no agent e-mail", "no_agent", building=building.id)
    mails = LeadMails(lead)
    if why_quarantined(lead.suspected, building) or mails.is_quarantined():
        raise Conflict(f"lead {lead_id} looks like spam", "suspected", lead=lead_id)
    if unfinished := mails.unfinished_to(recipient):
        raise _second(unfinished, recipient, now)
    mails.give_back(recipient, now)
    if mails.was_taken_from(recipient):
        lead.tour_sequence += AFTER_CANCELLATION
        lead.save(only=[Lead.tour_sequence])
    added = mails.add(NEW_LEAD, recipient, now)
    record_action(actor, "lead.send", "lead", lead_id, now, [] if address is None else ["recipient"])
    return SentAgain(added.id, recipient, _why_mail_waits(now))


def _second(mail: Delivery, address: str, now: datetime) -> Conflict:
    """Return the refusal of a second mail beside this one, which waits, is being sent or failed."""
    words = f"delivery {mail.id} to {address}"
    if mail.state == FAILED:
        return Conflict(f"{words} failed: {mail.reason}", "failed", delivery=mail.id)
    if mail.state == SENDING:
        return Conflict(f"{words} is being sent already")
    due = "it is due now" if mail.due_at <= now else f"its next attempt is at {utc_text(mail.due_at)}"
    why = _why_mail_waits(now) or (f"{mail.reason}; {due}" if mail.reason else due)
    return Conflict(f"{words} waits already: {why}")


def correct_slot(actor: Actor, lead_id: int, text: str | None, now: datetime) -> Correction:
    """Correct the time of a lead's tour; None removes the tour. Queue a mail to those who have the lead.

    text: as the API takes it (C10). Raises NotFound; Invalid for a bad time; Conflict if nothing changes or
    the customer was erased.
    """
    lead = _find(lead_id)
    _refuse_erased(lead)
    slot = None if text is None else _checked_slot(text)
    instant = in_utc(slot, lead.building)
    earlier = read_stored_slot(lead.slot_text)
    was_date = earlier is not None and earlier.is_date
    is_date = slot is not None and slot.is_date
    if instant == lead.slot and (is_date == was_date or instant is None):
        raise Conflict(
            f"lead {lead_id} has no tour" if instant is None else f"lead {lead_id} has that time already"
        )
    told_slot = _told_slot(lead)
    lead.slot, lead.corrected_slot = instant, " ".join((text or "").split())
    lead.tour_sequence += 1
    lead.save(only=[Lead.slot, Lead.corrected_slot, Lead.tour_sequence])
    mails = LeadMails(lead)
    mailed = [address for address in mails.holders() if not mails.waits_for(address)]
    for address in mailed:
        mails.add(CHANGED_TOUR, address, now, told_slot=told_slot)
    record_action(actor, "lead.correct", "lead", lead_id, now, ["slot"])
    zone = ZoneInfo(lead.building.time_zone) if lead.building else UTC
    remarks = slot.remarks(zone, now) if slot else frozenset()
    waits_because = _why_mail_waits(now) if mailed else None
    return Correction(instant, is_date, remarks, mailed, waits_because, mails.is_any_unsent())


def release_lead(actor: Actor, lead_id: int, now: datetime) -> int:
    """Clear the suspicion of spam, make the lead's quarantined deliveries due, and return their number.

    Raises NotFound, or Conflict if the lead isn't suspected.
    """
    lead = _find(lead_id, "unknown_lead_to_release")
    if lead.suspected is None:
        raise Conflict(f"lead {lead_id} is not suspected of anything")
    lead.suspected = None
    lead.save(only=[Lead.suspected])
    state, reason, due_at, settled_at = initial_state(None, None, now)
    released: int = (
        Delivery.update(state=state, reason=reason, due_at=due_at, settled_at=settled_at)
        .where(Delivery.lead == lead_id, Delivery.state == QUARANTINED)
        .execute()
    )
    record_action(actor, "lead.release", "lead", lead_id, now)
    return released


def _told_slot(lead: Lead) -> str | None:
    """Return the time of the lead's tour as text that stays the same in any zone, or its day."""
    slot = read_stored_slot(lead.slot_text)
    return slot.day.isoformat() if slot and slot.is_date else utc_text_or_none(lead.slot)


def _find(lead_id: int, hint: str = "unknown_lead") -> Lead:
    """Return the lead of this id; until the transaction ends no other one changes it or its deliveries."""
    lead: Lead | None = locked(Lead.select().where(Lead.id == lead_id)).first()
    if lead is None:
        raise NotFound(f"there is no lead {lead_id}", hint)
    lock_deliveries(Delivery.lead == lead_id)
    return lead


def _refuse_erased(lead: Lead) -> None:
    if lead.requestor_email is None:
        raise Conflict(f"lead {lead.id} has no data left: {ERASED}")


def _checked_address(text: str) -> str:
    try:
        return normal_form(text.strip())
    except ValueError as error:
        raise Invalid(f"{text!r} is not an e-mail address: {error}", field="recipient") from None


def _checked_slot(text: str) -> Slot:
    try:
        slot = parse_slot(text)
    except ValueError:
        slot = None
    if slot is None:
        raise Invalid(f"{text!r} is not a date and time; write it like 2026-12-01T10:00", field="slot")
    return slot


def _is_same(address: str, other: str | None) -> bool:
    return other is not None and stored_comparison_key(address) == stored_comparison_key(other)


def _why_mail_waits(now: datetime) -> str | None:
    return why_waiting(Destination.get_by_id(EMAIL), now)
