"""Owns the quiet defence against spam: what looks like it, and what becomes of that. Nothing is refused.

A lead that is suspected is stored as any other, with the reason. What would leave because of it is held until
the operator releases it, or leaves marked, as the building has it. Without a defence a building's leads are
suspected only if they fill in the trap, a field that no person sees.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import BlobField, CompositeKey, ForeignKeyField

from models.building import MARK, OFF, Building, BuildingRef
from models.lead import Lead
from models.storage.rows import Row, UtcDateTimeField

FASTEST_SECONDS = 3.0  # nobody reads and fills in a form in less
OFTEN = 5  # how often one text may come to a building within the time below: some forms have one ready
WITHIN = timedelta(minutes=10)

_LINK = re.compile(r"(?:https?://|www\.)[!-~]+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{2,}")


class RecentText(Row):
    """A text that came with a lead of late, as a digest, to a building that has a defence."""

    building = ForeignKeyField(Building)
    digest = BlobField()
    lead = ForeignKeyField(Lead)
    created_at = UtcDateTimeField()

    class Meta:
        primary_key = CompositeKey("building", "digest", "lead")


@dataclass(frozen=True, slots=True)
class SpamSignals:
    """What a lead says of how it was filled in. trap: there is something in the field that nobody sees;
    seconds: how long it took, if that is known.
    """

    trap: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SpamCheck:
    """What is looked at of a lead. defended: it came to a building that has a defence; text: its message then
    as it is compared with others, the building's id and a digest.
    """

    signs: SpamSignals | None
    message: str | None
    defended: bool
    text: tuple[int, bytes] | None


def spam_check_of(signs: SpamSignals | None, message: str | None, building: BuildingRef | None) -> SpamCheck:
    """What is looked at of a lead with these signs and this message, to this building."""
    if building is None or building.spam_defence == OFF:
        return SpamCheck(signs, message, False, None)
    return SpamCheck(signs, message, True, (building.id, _digest(message)) if message else None)


def check_for_spam(suspects: Sequence[SpamCheck], now: datetime) -> list[str | None]:
    """Why each of these looks like spam, in their order; None if it doesn't."""
    before: Counter[tuple[int, bytes]] = Counter()  # among these
    return [_suspicion(suspect, before, now) for suspect in suspects]


def _suspicion(suspect: SpamCheck, before: Counter[tuple[int, bytes]], now: datetime) -> str | None:
    signs, message = suspect.signs or SpamSignals(), suspect.message
    if signs.trap:
        return "the field that nobody sees was filled in"
    if not suspect.defended:
        return None
    flooded = suspect.text is not None and _comes_too_often(suspect.text, before, now)
    if signs.seconds is not None and signs.seconds < FASTEST_SECONDS:
        return f"it was filled in within {max(0.0, signs.seconds):.1f} s"
    if message and _LINK.search(message) and not _WORD.search(_LINK.sub("", message)):
        return "its message is links alone"
    return f"the same text came {OFTEN} times and more within ten minutes" if flooded else None


def remember_texts(leads: Iterable[tuple[int, SpamCheck]], now: datetime) -> None:
    """Remember the messages of these leads for a while, in their transaction, where there is a defence."""
    rows = [
        {"building": suspect.text[0], "digest": suspect.text[1], "lead": lead_id, "created_at": now}
        for lead_id, suspect in leads
        if suspect.text is not None
    ]
    if rows:
        old_or_ahead = (RecentText.created_at <= now - WITHIN) | (RecentText.created_at > now)
        RecentText.delete().where(old_or_ahead).execute()  # ahead: the clock was set back
        RecentText.insert_many(rows).execute()


def why_quarantined(suspected: str | None, building: Building | BuildingRef | None) -> str | None:
    """Why what would leave because of a lead is held, for the operator; None if it isn't."""
    if suspected is None or (building is not None and building.spam_defence == MARK):
        return None
    return f"suspected of spam: {suspected}"


def _comes_too_often(text: tuple[int, bytes], before: Counter[tuple[int, bytes]], now: datetime) -> bool:
    building_id, digest = text
    rows = (
        RecentText.select(RecentText.lead)
        .where(
            RecentText.building == building_id,
            RecentText.digest == digest,
            RecentText.created_at > now - WITHIN,
            RecentText.created_at <= now,
        )
        .limit(OFTEN)  # more of them would say no more
    )
    earlier = before[text] + len(list(rows.tuples()))
    before[text] += 1
    return earlier >= OFTEN


def _digest(message: str) -> bytes:
    # However it is spaced and whatever its case.
    return hashlib.sha256(" ".join(message.casefold().split()).encode()).digest()
