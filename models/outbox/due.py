"""Due deliveries: which of them the breaker of their destination lets leave next."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from peewee import fn

from models.lead import Lead
from models.outbox.delivery import PENDING, SENDING, Delivery, state_is
from models.outbox.destination import BreakerState
from models.storage.cached_query import CachedQuery
from models.storage.rows import database, locked


def due_ids(
    kind: str,
    state: BreakerState,
    now: datetime,
    limit: int,
    excluded_sources: Collection[str | None] | None = None,
) -> list[int]:
    """Return the due deliveries that may leave now, the longest due first. Of a digest its first is returned.

    They are locked; those that another transaction has locked are passed over.

    excluded_sources: those that have slow deliveries on their way; None: any source may have more of them.
    """
    if state is BreakerState.OPEN:
        return []
    if state is BreakerState.CLOSED and excluded_sources is None:
        return _first(_DUE.run(kind, now, limit))
    if state is BreakerState.HALF_OPEN and excluded_sources is None:
        is_probed = _in_state(kind, SENDING).exists()
        return [] if is_probed else _first(_DUE.run(kind, now, limit))
    return unlocked(_due_of_each_source(kind, state, now, limit, excluded_sources or ()))


def unlocked(ids: list[int]) -> list[int]:
    """Lock these pending deliveries, without those that another transaction has locked. Return the locked."""
    if not database.is_shared:
        return ids
    free = set(_first(_UNLOCKED.run(ids)))
    return [row_id for row_id in ids if row_id in free]


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


def _due_of_each_source(
    kind: str, state: BreakerState, now: datetime, limit: int, excluded: Collection[str | None]
) -> list[int]:
    """Return a due delivery of each source: one that was not refused, if there is one.

    Probes are of sources at random: which of many is at fault is unknown.
    """
    due = _due(kind, now).join(Lead)
    if named := [source for source in excluded if source is not None]:
        due = due.where(Lead.source.is_null() | Lead.source.not_in(named))
    if None in excluded:
        due = due.where(Lead.source.is_null(False))
    if state is BreakerState.REFUSING:
        refused = _in_state(kind, PENDING).join(Lead).where(Delivery.refused, Lead.source.is_null(False))
        is_other = Lead.source.is_null() | Lead.source.not_in(refused.select(Lead.source))
        due = due.where(~Delivery.refused, is_other)
    order = [Delivery.refused, Delivery.due_at, Delivery.id]
    place = fn.ROW_NUMBER().over(partition_by=[Lead.source], order_by=order)
    ranked = due.select(Delivery.id, Delivery.due_at, place.alias("place")).alias("ranked")
    first = Delivery.select(ranked.c.id).from_(ranked).where(ranked.c.place == 1)
    turn = [fn.RANDOM()] if state is BreakerState.PROBING else [ranked.c.due_at, ranked.c.id]
    return _first(first.order_by(*turn).limit(limit).tuples().execute())


def _in_state(kind: Any, state: str) -> Any:
    return Delivery.select(Delivery.id).where(Delivery.kind == kind, state_is(state))


_DUE = CachedQuery(lambda kind, now, limit: locked(_due(kind, now).limit(limit), skip=True))
_UNLOCKED = CachedQuery(
    lambda ids: locked(
        Delivery.select(Delivery.id).where(Delivery.id.in_(ids), state_is(PENDING)).order_by(Delivery.id),
        skip=True,
    )
)
