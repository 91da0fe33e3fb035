"""Spam checks: which leads look like spam, and why. No lead is refused for it.

A suspected lead is stored like any other, with the reason. Its mail is marked, or with the defence `hold` its
deliveries are quarantined until the operator releases the lead. Without a defence only the honeypot field is
a reason: password managers and browsers fill it in too. Leads that another website may have sent through its
visitors are always quarantined.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from peewee import SQL, BlobField, CompositeKey, ForeignKeyField, TextField, fn

from models.building import HOLD, OFF, Building
from models.building_match import BuildingRef
from models.customer import Customer
from models.lead import Lead
from models.secret import SecretKeys
from models.storage.cached_query import CachedInsert, CachedQuery
from models.storage.rows import Row, UtcDateTimeField, database, is_exclusive, lock_names

HONEYPOT = "the field that nobody sees was filled in"
UNATTENDED = "no person pressed the button of its form, or the form stood in a frame"

PURPOSE = "spam text"  # of the digests

MIN_FILL_SECONDS = 3.0  # no person reads and fills in a form faster
FLOOD_COUNT = 5  # so many leads of a sender with the same text may reach a building within FLOOD_WINDOW
FLOOD_WINDOW = timedelta(minutes=10)
FLOOD_ROWS = 1_000  # so many of the newest leads with a text are read: a form's ready-made one may be common

Counts = Counter[tuple[int, bytes, int | None, str | None]]  # of texts, by building, digest, customer, source

_LINK = re.compile(r"(?:https?://|www\.)[!-~]+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{2,}")


class RecentText(Row):
    """The digest of a recent lead's message, kept for buildings that have a defence."""

    building = ForeignKeyField(Building)
    digest = BlobField()  # with the installation's secret: a short message could be guessed
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
    """The digests of a message to a building, and its sender. digests: by each key of the secret, the newest
    first. source: None if many clients share it.
    """

    building_id: int
    digests: Sequence[bytes]
    customer_id: int
    source: str | None

    def names(self) -> Iterator[str]:
        """Yield what the text is counted by: with its customer, and with its source."""
        for digest in self.digests:
            yield f"{self.building_id} {digest.hex()} customer {self.customer_id}"
            if self.source is not None:
                yield f"{self.building_id} {digest.hex()} source {self.source}"


@dataclass(frozen=True, slots=True)
class SpamCheck:
    """What a lead is checked by. defended: its building has a defence; text: then its message and senders,
    for comparison with others.
    """

    signals: SpamSignals | None
    message: str | None
    defended: bool
    text: SentText | None


def spam_check_of(
    signals: SpamSignals | None,
    message: str | None,
    building: BuildingRef | None,
    customer_id: int,
    source: str | None,
    secret: Callable[[], SecretKeys],
) -> SpamCheck:
    """Return the check of a lead with these signals and this message, to this building."""
    if building is None or building.spam_defence == OFF:
        return SpamCheck(signals, message, False, None)
    text = SentText(building.id, _digests(message, secret()), customer_id, source) if message else None
    return SpamCheck(signals, message, True, text)


def check_for_spam(checks: Sequence[SpamCheck], now: datetime) -> list[str | None]:
    """Return why each lead looks like spam, in their order; None if it doesn't."""
    if database.is_shared:  # until the transaction ends no other one counts these texts
        lock_names("text", (name for check in checks if check.text for name in check.text.names()))
    earlier: Counts = Counter()  # texts of this batch
    return [_spam_reason(check, earlier, now) for check in checks]


def _spam_reason(check: SpamCheck, earlier: Counts, now: datetime) -> str | None:
    signals, message = check.signals or SpamSignals(), check.message
    if signals.honeypot:
        return HONEYPOT
    if not check.defended:
        return None
    flooded = check.text is not None and _is_flood(check.text, earlier, now)
    if signals.seconds is not None and signals.seconds < MIN_FILL_SECONDS:
        return f"it was filled in within {max(0.0, signals.seconds):.1f} s"
    if message and _LINK.search(message) and not _WORD.search(_LINK.sub("", message)):
        return "its message is links alone"
    return (
        f"its sender sent the same text more than {FLOOD_COUNT} times within ten minutes" if flooded else None
    )


def remember_texts(leads: Iterable[tuple[int, SpamCheck]], now: datetime) -> None:
    """Store the digests of these leads' messages where there is a defence, and delete old ones."""
    rows = [
        (text.building_id, text.digests[0], lead_id, text.customer_id, text.source, now)
        for lead_id, text in ((lead_id, check.text) for lead_id, check in leads)
        if text is not None
    ]
    if rows:
        if is_exclusive("old texts"):
            _FORGET.run(now - FLOOD_WINDOW, now)
        _REMEMBER.run(rows)


def forget_texts() -> None:
    """Delete all digests. Versions up to 0.1.0 stored them without a secret, and nothing tells which.

    A flood that goes on is found again after a few leads. On a database that servers share, those that run
    keep the digests, and no such version was there.
    """
    if not database.is_shared:
        RecentText.delete().execute()


def why_quarantined(suspected: str | None, building: Building | BuildingRef | None) -> str | None:
    """Return why a lead's deliveries are quarantined, for the operator; None if they aren't."""
    held = suspected == UNATTENDED or (building is not None and building.spam_defence == HOLD)
    return f"suspected of spam: {suspected}" if suspected and held else None


def _is_flood(text: SentText, earlier: Counts, now: datetime) -> bool:
    """Return True if one customer or one source has sent this text too often.

    Many renters may send the ready-made text of a form, so those of other senders don't count.
    """
    count = _count_in_batch(text, earlier)
    for digest in text.digests:
        ((stored,),) = _SAME_SENDER.run(
            text.building_id, digest, now - FLOOD_WINDOW, now, text.customer_id, text.source
        )
        count += stored
    return count >= FLOOD_COUNT


def _count_of_sender(
    building_id: Any, digest: Any, since: Any, now: Any, customer_id: Any, source: Any
) -> Any:
    newest = (
        RecentText.select(RecentText.customer, RecentText.source)
        .where(
            RecentText.building == building_id,
            RecentText.digest == digest,
            RecentText.created_at > since,
            RecentText.created_at <= now,
        )
        .order_by(RecentText.lead.desc())
        .limit(FLOOD_ROWS)
    )
    # A source of NULL equals none.
    of_sender = (newest.c.customer_id == customer_id) | (newest.c.source == source)
    return RecentText.select(fn.count(SQL("*"))).from_(newest).where(of_sender)


_SAME_SENDER = CachedQuery(_count_of_sender)
_FORGET = CachedQuery(
    # Ahead of now: the clock was set back.
    lambda since, now: RecentText.delete().where(
        (RecentText.created_at <= since) | (RecentText.created_at > now)
    )
)
_REMEMBER = CachedInsert(
    RecentText,
    RecentText.building,
    RecentText.digest,
    RecentText.lead,
    RecentText.customer,
    RecentText.source,
    RecentText.created_at,
)


def _count_in_batch(text: SentText, earlier: Counts) -> int:
    """Return how many of this batch's texts are the same and of one sender with this one; add this one."""
    same, customer, source = (text.building_id, text.digests[0]), text.customer_id, text.source
    of_customer, of_source, of_both = (
        (*same, customer, None),
        (*same, None, source),
        (*same, customer, source),
    )
    count = earlier[of_customer]
    earlier[of_customer] += 1
    if source is not None:
        count += earlier[of_source] - earlier[of_both]
        earlier[of_source] += 1
        earlier[of_both] += 1
    return count


def _digests(message: str, secret: SecretKeys) -> list[bytes]:
    # Case and spacing make no difference.
    return secret.digests(PURPOSE, " ".join(message.casefold().split()).encode())
