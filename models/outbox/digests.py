"""Digests: mails above a rate leave together, so that no flood buries an agent, and no lead is lost (C24c).

A mail that would exceed a rate is put off to the next five minutes. Then those to one address are put
together, at most LARGEST to a digest, and each digest leaves, fails and is retried as one. A digest whose
content is refused is split, so that one lead in it can't take the others with it.

The rates are counted in memory, and a restart forgets them. A server that shares its database with others
also counts the mails that these have sent, as it finds them there.
"""

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from peewee import JOIN, fn

from models.building import Building
from models.lead import Lead
from models.outbox.delivery import PENDING, Delivery, state_is
from models.outbox.destination import EMAIL
from models.storage.cached_query import CachedQuery
from models.storage.rows import database, is_exclusive, locked

log = logging.getLogger("leads.outbox")

EVERY = timedelta(minutes=5)
LARGEST = 50
MOST_FORMED = 1_000  # deliveries at once; the others follow
HOUR = timedelta(hours=1)
PUT_OFF = "above mails_per_source or mails_per_address: it leaves in a digest"
LEARN_EVERY = timedelta(seconds=1)  # how often the mails of other servers are counted
LATE = timedelta(seconds=15)  # a claim that takes longer to be committed fails
WAITING = 0  # the digest of a delivery before it is put together


@dataclass(slots=True, eq=False)
class MailRates:
    """The mails that left by themselves in the last hour. Used in the writer's transactions only; one that is
    rolled back has counted. Those that other servers send at the same moment are counted a little later.

    per_source: the most for the leads of one source to one building; per_address: the most to one address;
    0 for no limit.
    """

    per_source: int
    per_address: int
    _sent: deque[tuple[datetime, tuple[object, ...]]] = field(default_factory=deque)
    _counts: Counter[tuple[object, ...]] = field(default_factory=Counter)
    _known: dict[int, datetime] = field(default_factory=dict)  # mails that are counted, on a shared database
    _learned_at: datetime | None = None

    def admits(self, source: str | None, building_id: int | None, address: str | None, now: datetime) -> bool:
        """Return True and count the mail if it may leave by itself. source: None for one without a limit."""
        self._forget(now)
        limits = self._limits(source, building_id, address)
        if any(self._counts[key] >= limit for key, limit in limits):
            return False
        self._count(limits, now)
        return True

    def learn(self, server: str, now: datetime) -> None:
        """Count the mails that other servers than this one have sent since the last time."""
        earlier = self._learned_at
        if earlier is not None and timedelta(0) <= now - earlier < LEARN_EVERY:
            return
        self._learned_at = now
        since = now - HOUR if earlier is None else max(now - HOUR, earlier - LATE)
        for row_id, sent_at, source, building_id, address in _BY_OTHERS.run(since, server):
            if self.know(row_id, now):
                at = min(datetime.fromisoformat(sent_at), now)
                self._count(self._limits(source, building_id, address), at)

    def know(self, row_id: int, now: datetime) -> bool:
        """Return True if the mail was not known to be counted. It is from now on."""
        for known in list(takewhile(lambda known: now - self._known[known] >= HOUR, self._known)):
            del self._known[known]
        if row_id in self._known:
            return False
        self._known[row_id] = now
        return True

    def _forget(self, now: datetime) -> None:
        while self._sent and not timedelta(0) <= now - self._sent[0][0] < HOUR:  # the clock may be set back
            _, key = self._sent.popleft()
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def _limits(
        self, source: str | None, building_id: int | None, address: str | None
    ) -> list[tuple[tuple[object, ...], int]]:
        """Return what the mail counts for, with the limit of each."""
        limits: list[tuple[tuple[object, ...], int]] = []
        if self.per_source and source is not None:
            limits.append(((source, building_id), self.per_source))
        if self.per_address and address is not None:
            limits.append(((address.lower(),), self.per_address))
        return limits

    def _count(self, limits: Sequence[tuple[tuple[object, ...], int]], at: datetime) -> None:
        for key, _ in limits:
            self._sent.append((at, key))
            self._counts[key] += 1


def admit(ids: Sequence[int], limit: int, rates: MailRates, now: datetime, server: str) -> list[int]:
    """Return those of the due mails that leave now, up to the limit. Those above a rate are put off."""
    if database.is_shared:
        rates.learn(server, now)
    facts = {row[0]: row[1:] for row in _FACTS.run(ids)}
    admitted: list[int] = []
    above: list[int] = []
    for row_id in ids:
        if len(admitted) == limit:
            break
        attempts, digest, source, building_id, address = facts[row_id]
        if attempts or digest is not None or rates.admits(source, building_id, address, now):
            admitted.append(row_id)
            if database.is_shared:
                rates.know(row_id, now)
        else:
            above.append(row_id)
    if above:
        log.warning("mails above a rate wait for a digest", extra={"count": len(above)})
        Delivery.update(digest=WAITING, due_at=_next_time(now), reason=PUT_OFF).where(
            Delivery.id.in_(above)
        ).execute()
    return admitted


def _next_time(now: datetime) -> datetime:
    seconds = EVERY.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds + seconds, UTC)


_ADDRESS = fn.LOWER(fn.COALESCE(Delivery.recipient, Building.agent_email))


def _joined(select: Any) -> Any:
    return select.join(Lead).join(Building, JOIN.LEFT_OUTER)


_FACTS = CachedQuery(
    lambda ids: _joined(
        Delivery.select(Delivery.id, Delivery.attempts, Delivery.digest, Lead.source, Lead.building, _ADDRESS)
    ).where(Delivery.id.in_(ids))
)


_BY_OTHERS = CachedQuery(
    lambda since, server: (
        _joined(Delivery.select(Delivery.id, Delivery.sent_at, Lead.source, Lead.building, _ADDRESS))
        .where(
            Delivery.sent_at > since,
            Delivery.claimed_by != server,
            Delivery.kind == EMAIL,
            Delivery.digest.is_null(),
        )
        .order_by(Delivery.sent_at)
    )
)


def form_digests(now: datetime) -> None:
    """Put together the mails whose time for a digest has come. One server at a time does."""
    if not _FIRST_WAITING.run(WAITING):
        return  # as for almost every claim
    if not is_exclusive("digests"):
        return
    groups: dict[object, list[tuple[int, str | None]]] = {}
    for row_id, source, address in _WAITING.run(WAITING, now, MOST_FORMED):
        groups.setdefault(address, []).append((row_id, source))
    for rows in groups.values():
        for digest in _digests(rows):
            _FORM.run(digest[0], digest)


_FIRST_WAITING = CachedQuery(
    lambda waiting: Delivery.select(Delivery.id).where(state_is(PENDING), Delivery.digest == waiting).limit(1)
)
_WAITING = CachedQuery(
    lambda waiting, now, limit: locked(
        _joined(Delivery.select(Delivery.id, Lead.source, _ADDRESS))
        .where(state_is(PENDING), Delivery.kind == EMAIL, Delivery.digest == waiting, Delivery.due_at <= now)
        .order_by(Delivery.id)
        .limit(limit),
        skip=True,
        of=Delivery,
    )
)
_FORM = CachedQuery(lambda digest, ids: Delivery.update(digest=digest).where(Delivery.id.in_(ids)))


def _digests(rows: Sequence[tuple[int, str | None]]) -> list[list[int]]:
    """Return the digests of the mails to one address, given as delivery and source.

    The leads of one source stand together: if their text is refused, few others are in the same digest.
    """
    ids = [row_id for row_id, _ in sorted(rows, key=lambda row: (row[1] or "", row[0]))]
    return [sorted(ids[at : at + LARGEST]) for at in range(0, len(ids), LARGEST)]


def members(firsts: Sequence[int]) -> dict[int, int | None]:
    """Return the deliveries that leave with these, all of their digests or each by itself, with the digest of
    each.
    """
    return dict(_MEMBERS.run(firsts))


_digest_of = Delivery.alias()
_MEMBERS = CachedQuery(
    lambda firsts: Delivery.select(Delivery.id, Delivery.digest).where(
        Delivery.id.in_(firsts)
        | (
            state_is(PENDING)
            & (Delivery.digest > WAITING)
            & Delivery.digest.in_(_digest_of.select(_digest_of.digest).where(_digest_of.id.in_(firsts)))
        )
    )
)


def split_digest(ids: Sequence[int]) -> dict[int, int]:
    """Return the digest of each delivery of a digest after a split in halves; {} if there is only one."""
    if len(ids) < 2:
        return {}
    middle = len(ids) // 2
    return {row_id: half[0] for half in (ids[:middle], ids[middle:]) for row_id in half}
