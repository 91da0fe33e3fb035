"""Spam checks: which leads look like spam, and why. No lead is refused for it.

A suspected lead is stored like any other, with the reason. Its deliveries are quarantined until the operator
releases the lead, or its mail is marked: the building's `spam_defence` decides. Without a defence only the
honeypot field marks spam.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, CompositeKey, ForeignKeyField, TextField

from models.building import MARK, OFF, Building
from models.building_match import BuildingRef
from models.customer import Customer
from models.lead import Lead
from models.storage.rows import Row, UtcDateTimeField

MIN_FILL_SECONDS = 3.0  # no person reads and fills in a form faster
FLOOD_COUNT = 5  # so many leads with the same text may reach a building within FLOOD_WINDOW
FLOOD_WINDOW = timedelta(minutes=10)

_LINK = re.compile(r"(?:https?://|www\.)[!-~]+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{2,}")


class RecentText(Row):
    """The digest of a recent lead's message, kept for buildings that have a defence."""

    building = ForeignKeyField(Building)
    digest = BlobField()
    lead = ForeignKeyField(Lead)
    customer = ForeignKeyField(Customer)
    source = TextField(null=True)
    created_at = UtcDateTimeField()

    class Meta:
        primary_key = CompositeKey("building", "digest", "lead")


@dataclass(frozen=True, slots=True)
class SpamSignals:
    """How a form was filled in. honeypot: the field that no person sees has text in it; seconds: the time
    that it took, None if unknown.
    """

    honeypot: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SentText:
    """The digest of a message to a building, and who sent it. source: None if many clients share it."""

    building_id: int
    digest: bytes
    customer_id: int
    source: str | None


@dataclass(frozen=True, slots=True)
class SpamCheck:
    """What a lead is checked by. defended: its building has a defence; text: then its message and senders,
    for comparison with others.
    """

    signals: SpamSignals | None
    message: str | None
    defended: bool
    text: "SentText | None"


def spam_check_of(
    signals: SpamSignals | None,
    message: str | None,
    building: BuildingRef | None,
    customer_id: int,
    source: str | None,
) -> SpamCheck:
    """Return the check of a lead with these signals and this message, to this building."""
    if building is None or building.spam_defence == OFF:
        return SpamCheck(signals, message, False, None)
    text = SentText(building.id, _digest(message), customer_id, source) if message else None
    return SpamCheck(signals, message, True, text)


def check_for_spam(checks: Sequence[SpamCheck], now: datetime) -> list[str | None]:
    """Return why each lead looks like spam, in their order; None if it doesn't."""
    earlier: list[SentText] = []  # of this batch
    return [_spam_reason(check, earlier, now) for check in checks]


def _spam_reason(check: SpamCheck, earlier: list[SentText], now: datetime) -> str | None:
    signals, message = check.signals or SpamSignals(), check.message
    if signals.honeypot:
        return "the field that nobody sees was filled in"
    if not check.defended:
        return None
    flooded = check.text is not None and _is_flood(check.text, earlier, now)
    if signals.seconds is not None and signals.seconds < MIN_FILL_SECONDS:
        return f"it was filled in within {max(0.0, signals.seconds):.1f} s"
    if message and _LINK.search(message) and not _WORD.search(_LINK.sub("", message)):
        return "its message is links alone"
    return f"the same text came {FLOOD_COUNT} times and more within ten minutes" if flooded else None


def remember_texts(leads: Iterable[tuple[int, SpamCheck]], now: datetime) -> None:
    """Store the digests of these leads' messages where there is a defence, and delete old ones."""
    rows = [
        {
            "building": check.text.building_id,
            "digest": check.text.digest,
            "lead": lead_id,
            "customer": check.text.customer_id,
            "source": check.text.source,
            "created_at": now,
        }
        for lead_id, check in leads
        if check.text is not None
    ]
    if rows:
        old_or_ahead = (RecentText.created_at <= now - FLOOD_WINDOW) | (RecentText.created_at > now)
        RecentText.delete().where(old_or_ahead).execute()  # ahead: the clock was set back
        RecentText.insert_many(rows).execute()


def why_quarantined(suspected: str | None, building: Building | BuildingRef | None) -> str | None:
    """Return why a lead's deliveries are quarantined, for the operator; None if they aren't."""
    if suspected is None or (building is not None and building.spam_defence == MARK):
        return None
    return f"suspected of spam: {suspected}"


def _is_flood(text: SentText, earlier: list[SentText], now: datetime) -> bool:
    # Of one source or customer: many renters may send a form's ready-made text.
    senders = RecentText.customer == text.customer_id
    if text.source is not None:
        senders |= RecentText.source == text.source
    rows = (
        RecentText.select(RecentText.lead)
        .where(
            RecentText.building == text.building_id,
            RecentText.digest == text.digest,
            RecentText.created_at > now - FLOOD_WINDOW,
            RecentText.created_at <= now,
            senders,
        )
        .limit(FLOOD_COUNT)
    )
    count = len(list(rows.tuples())) + sum(_is_same_sender(text, other) for other in earlier)
    earlier.append(text)
    return count >= FLOOD_COUNT


def _is_same_sender(text: SentText, other: SentText) -> bool:
    return (text.building_id, text.digest) == (other.building_id, other.digest) and (
        text.customer_id == other.customer_id or (text.source is not None and text.source == other.source)
    )


def _digest(message: str) -> bytes:
    # Case and spacing make no difference.
    return hashlib.sha256(" ".join(message.casefold().split()).encode()).digest()
