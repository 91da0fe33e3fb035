"""Spam checks: which leads look like spam, and why. No lead is refused for it.

A suspected lead is stored like any other, with the reason. Its deliveries are quarantined until the operator
releases the lead, or its mail is marked: the building's `spam_defence` decides. Without a defence only the
honeypot field marks spam.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, CompositeKey, ForeignKeyField

from models.building import MARK, OFF, Building
from models.building_match import BuildingRef
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
class SpamCheck:
    """What a lead is checked by. defended: its building has a defence; text: then the building's id and the
    digest of the message, for comparison with others.
    """

    signals: SpamSignals | None
    message: str | None
    defended: bool
    text: tuple[int, bytes] | None


def spam_check_of(
    signals: SpamSignals | None, message: str | None, building: BuildingRef | None
) -> SpamCheck:
    """Return the check of a lead with these signals and this message, to this building."""
    if building is None or building.spam_defence == OFF:
        return SpamCheck(signals, message, False, None)
    return SpamCheck(signals, message, True, (building.id, _digest(message)) if message else None)


def check_for_spam(checks: Sequence[SpamCheck], now: datetime) -> list[str | None]:
    """Return why each lead looks like spam, in their order; None if it doesn't."""
    earlier: Counter[tuple[int, bytes]] = Counter()  # texts of this batch
    return [_spam_reason(check, earlier, now) for check in checks]


def _spam_reason(check: SpamCheck, earlier: Counter[tuple[int, bytes]], now: datetime) -> str | None:
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
        {"building": check.text[0], "digest": check.text[1], "lead": lead_id, "created_at": now}
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


def _is_flood(text: tuple[int, bytes], earlier: Counter[tuple[int, bytes]], now: datetime) -> bool:
    building_id, digest = text
    rows = (
        RecentText.select(RecentText.lead)
        .where(
            RecentText.building == building_id,
            RecentText.digest == digest,
            RecentText.created_at > now - FLOOD_WINDOW,
            RecentText.created_at <= now,
        )
        .limit(FLOOD_COUNT)
    )
    count = earlier[text] + len(list(rows.tuples()))
    earlier[text] += 1
    return count >= FLOOD_COUNT


def _digest(message: str) -> bytes:
    # Case and spacing make no difference.
    return hashlib.sha256(" ".join(message.casefold().split()).encode()).digest()
