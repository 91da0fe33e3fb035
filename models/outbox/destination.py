"""Destinations of deliveries, each with a circuit breaker and a pause."""

import enum
import random
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from peewee import BooleanField, IntegerField, TextField

from models.clock import utc_text
from models.settings import Settings
from models.storage.cached_query import CachedQuery
from models.storage.rows import Row, UtcDateTimeField, database, locked

EMAIL = "email"
JUNE_HOMES = "june_homes"
KINDS = (EMAIL, JUNE_HOMES)

# How long the breaker stays open before one delivery probes the destination, by failures in a row.
PROBE_DELAYS = tuple(timedelta(seconds=s) for s in (5, 10, 20, 40, 60, 120, 300))
OPERATOR_DELAY = timedelta(hours=1)  # the same, if only the operator can fix the cause
MAX_RETRY_AFTER = timedelta(days=1)
JITTER = 0.2  # the most that is added to a delay, as a part of it

SUCCESS_STEP = timedelta(seconds=1)  # successes closer together than this are recorded once

NO_DESTINATION = {
    EMAIL: "no destination: LEADS_SMTP_URL is not set",
    JUNE_HOMES: "no destination: LEADS_JUNE_HOMES_URL is not set",
}

CLOSED_BREAKER: dict[str, object] = {"failures": 0, "hold_until": None, "reason": None, "refuses": False}


class Destination(Row):
    """The destination of one kind of delivery. While it is paused or its breaker is open, none is claimed."""

    kind = TextField(primary_key=True)
    configured = BooleanField(default=False)  # the server's settings have all that it needs
    missing = TextField(null=True)  # else what they lack; None while no server has started
    paused = BooleanField(default=False)  # until the operator resumes it
    pause_reason = TextField(null=True)
    failures = IntegerField(default=0)  # of the destination, in a row; above 0 it is probed
    hold_until = UtcDateTimeField(null=True)  # the breaker is open until then
    reason = TextField(null=True)  # why the breaker tripped
    refuses = BooleanField(default=False)  # it tripped because deliveries were refused, maybe all of them
    succeeded_at = UtcDateTimeField(null=True)  # when it last accepted a delivery


_BREAKER = (Destination.failures, Destination.hold_until, Destination.reason, Destination.refuses)


def lock_destinations(kinds: Iterable[str]) -> None:
    """Keep other servers from changing these destinations until the transaction ends."""
    if database.is_shared:
        rows = Destination.select(Destination.kind).where(Destination.kind.in_(set(kinds)))
        list(locked(rows.order_by(Destination.kind)))


class BreakerState(enum.Enum):
    """Which deliveries may leave.

    CLOSED: all. OPEN: none. HALF_OPEN: one at a time, as a probe. Refusals that tripped the breaker may be
    the fault of the refused deliveries. So those of other sources leave meanwhile (REFUSING), and from time
    to time some sources probe the destination, with one delivery each (PROBING).
    """

    CLOSED = enum.auto()
    HALF_OPEN = enum.auto()
    OPEN = enum.auto()
    REFUSING = enum.auto()
    PROBING = enum.auto()

    @property
    def is_limited(self) -> bool:
        """True if only some deliveries may leave: servers that share the database then claim in turn."""
        return self in (BreakerState.HALF_OPEN, BreakerState.REFUSING, BreakerState.PROBING)


def breaker_state(kind: str, now: datetime) -> BreakerState:
    """Return the state of this kind's breaker. While the kind is paused, that is OPEN."""
    [(paused, hold_until, failures, refuses)] = _STATE.run(kind)
    if paused:
        return BreakerState.OPEN
    if hold_until is not None and hold_until > utc_text(now):
        return BreakerState.REFUSING if refuses else BreakerState.OPEN
    if not failures:
        return BreakerState.CLOSED
    return BreakerState.PROBING if refuses else BreakerState.HALF_OPEN


_STATE = CachedQuery(
    lambda kind: Destination.select(
        Destination.paused, Destination.hold_until, Destination.failures, Destination.refuses
    ).where(Destination.kind == kind)
)


def trip(
    kind: str,
    reason: str,
    now: datetime,
    retry_after: timedelta | None = None,
    *,
    needs_operator: bool = False,
    refuses: bool = False,
) -> None:
    """Open the breaker for a while: longer after each failure in a row, or an hour if needs_operator.

    retry_after: what the destination asked for; it counts if it is longer. refuses: the destination refused a
    delivery, maybe because of that delivery. Concurrent failures count once.
    """
    destination = locked(Destination.select().where(Destination.kind == kind)).get()
    if destination.refuses and not refuses:  # the longer hold was for refused deliveries only
        destination.failures, destination.hold_until = 0, None
    hold_until = destination.hold_until
    if hold_until is None or hold_until <= now:  # else a concurrent delivery has tripped it already
        destination.failures += 1
    delay = PROBE_DELAYS[min(destination.failures, len(PROBE_DELAYS)) - 1]
    delay = (OPERATOR_DELAY if needs_operator else delay) * (1 + random.random() * JITTER)
    if retry_after is not None:
        delay = min(max(retry_after, delay), MAX_RETRY_AFTER)
    destination.hold_until = max(hold_until or now, now + delay)
    destination.reason = reason
    destination.refuses = refuses
    destination.save(only=_BREAKER)  # the operator may have paused it meanwhile


def shift_breakers(step: timedelta) -> None:
    """Move the times of each destination by this much, because the clock was set."""
    for destination in locked(Destination.select().order_by(Destination.kind)):
        if destination.hold_until is not None:
            destination.hold_until += step
        if destination.succeeded_at is not None:
            destination.succeeded_at += step
        destination.save(only=[Destination.hold_until, Destination.succeeded_at])


def record_answer(kind: str, now: datetime) -> None:
    """Close a breaker that tripped because the destination did not answer: it answered a delivery.

    An open breaker stays open: the delivery that was answered had left before the breaker tripped.
    """
    _CLOSE_IF_ANSWERED.run(kind, now)


_CLOSE_IF_ANSWERED = CachedQuery(
    lambda kind, now: Destination.update(**CLOSED_BREAKER).where(
        Destination.kind == kind,
        Destination.failures > 0,
        Destination.hold_until.is_null() | (Destination.hold_until <= now),
        ~Destination.refuses,
    )
)


def record_success(kind: str, now: datetime, *, is_probe: bool) -> None:
    """Note that the destination accepted a delivery, and close the breaker if that shows that it works.

    is_probe: the delivery left after the breaker tripped.
    """
    if is_probe:
        _CLOSE.run(now, kind)
    else:
        _NOTE_SUCCESS.run(now, kind, now - SUCCESS_STEP)


_CLOSE = CachedQuery(
    lambda now, kind: Destination.update(**CLOSED_BREAKER, succeeded_at=now).where(Destination.kind == kind)
)
_NOTE_SUCCESS = CachedQuery(
    lambda now, kind, before: Destination.update(succeeded_at=now).where(
        Destination.kind == kind, Destination.succeeded_at.is_null() | (Destination.succeeded_at < before)
    )
)


def has_succeeded_since(kind: str, since: datetime) -> bool:
    """Return True if the destination accepted a delivery since then."""
    succeeded_at = Destination.get_by_id(kind).succeeded_at
    return succeeded_at is not None and succeeded_at >= since


def missing_settings(settings: Settings) -> dict[str, str]:
    """Return what the settings lack, by the kind of delivery that can't leave without it."""
    missing = {}
    if settings.smtp_url is None:
        missing[EMAIL] = NO_DESTINATION[EMAIL]
    elif settings.sender_fault is not None:
        missing[EMAIL] = f"no sender: {settings.sender_fault}"
    if not settings.june_homes_url:
        missing[JUNE_HOMES] = NO_DESTINATION[JUNE_HOMES]
    return missing


def configure_destinations(kinds: frozenset[str], missing: Mapping[str, str] = NO_DESTINATION) -> None:
    """Record which kinds the settings have all for, and close every breaker: the settings may be new.

    missing: what the settings lack for the other kinds. On a shared database a tripped breaker is half-open
    then, as other servers may know that the destination is broken still.
    """
    breaker = {"hold_until": None} if database.is_shared else {**CLOSED_BREAKER, "succeeded_at": None}
    for kind in KINDS:
        lacks = None if kind in kinds else missing.get(kind)
        Destination.update(configured=kind in kinds, missing=lacks, **breaker).where(
            Destination.kind == kind
        ).execute()


def why_waiting(destination: Destination, now: datetime) -> str | None:
    """Return why deliveries of this kind wait, for the operator; None if they don't."""
    if destination.paused:
        return f"paused {destination.pause_reason or 'by the operator'}"
    if not destination.configured:
        return str(destination.missing or NO_DESTINATION[destination.kind])
    if destination.hold_until is not None and destination.hold_until > now:
        return f"held until {utc_text(destination.hold_until)}: {destination.reason}"
    return None
