"""Due deliveries: which of them the breaker of their destination lets leave next."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from peewee import fn

from models.lead import Lead
from models.outbox.delivery import PENDING, SENDING, Delivery, state_is
from models.outbox.destination import BreakerState
from models.storage.cached_query import CachedQuery


def due_ids(
    kind: str, state: BreakerState, now: datetime, limit: int, other_than: frozenset[str] = frozenset()
) -> list[int]:
    """Return the due deliveries that may leave now, the longest due first. Of a digest its first is returned.

    other_than: sources whose deliveries are left out, if there are any.
    """
    if state is BreakerState.CLOSED and not other_than:
        return _first(_DUE.run(kind, now, limit))
    if state is BreakerState.OPEN:
        return []
    if other_than:
        return [] if state is BreakerState.HALF_OPEN else _due_unrefused(kind, now, other_than)
    if _in_state(kind, SENDING).exists():
        return []  # one probe at a time
    if state is BreakerState.HALF_OPEN:
        return _first(_DUE.run(kind, now, 1))
    if state is BreakerState.PROBING:
        return _due_of_each_source(kind, now, limit)
    return _due_unrefused(kind, now)


def _first(rows: Iterable[tuple[Any, ...]]) -> list[int]:
    return [row[0] for row in rows]


def _due(kind: Any, now: Any) -> Any:
    earlier = Delivery.alias()
    is_first = ~fn.EXISTS(
        earlier.select(earlier.id).where(
            earlier.digest == Delivery.digest, earlier.id < Delivery.id, state_is(PENDING, earlier)
        )
    )
    leaves_now = Delivery.digest.is_null() | ((Delivery.digest > 0) & is_first)
    due = _in_state(kind, PENDING).where(Delivery.due_at <= now, leaves_now)
    return due.order_by(Delivery.due_at, Delivery.id)


def _due_unrefused(kind: str, now: datetime, other_than: frozenset[str] = frozenset()) -> list[int]:
    """Return one due delivery, neither of a source of which one was refused nor of these sources."""
    refused = _in_state(kind, PENDING).join(Lead).where(Delivery.refused, Lead.source.is_null(False))
    others = Lead.source.not_in(refused.select(Lead.source)) & Lead.source.not_in(other_than)
    due = _due(kind, now).join(Lead).where(~Delivery.refused, Lead.source.is_null() | others)
    return _first(due.limit(1).tuples().execute())


def _due_of_each_source(kind: str, now: datetime, limit: int) -> list[int]:
    """Return a due delivery of each source: one that was not refused, if there is one."""
    order = [Delivery.refused, Delivery.due_at, Delivery.id]
    place = fn.ROW_NUMBER().over(partition_by=[Lead.source], order_by=order)
    due = _due(kind, now).join(Lead).select(Delivery.id, Delivery.due_at, place.alias("place"))
    ranked = due.alias("ranked")
    first = Delivery.select(ranked.c.id).from_(ranked).where(ranked.c.place == 1)
    return _first(first.order_by(ranked.c.due_at, ranked.c.id).limit(limit).tuples().execute())


def _in_state(kind: Any, state: str) -> Any:
    return Delivery.select(Delivery.id).where(Delivery.kind == kind, state_is(state))


_DUE = CachedQuery(lambda kind, now, limit: _due(kind, now).limit(limit))
