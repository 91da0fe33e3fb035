"""Owns the destinations of deliveries: which may leave now, and how long one that is down is left alone."""

import enum
import random
from datetime import datetime, timedelta

from peewee import BooleanField, IntegerField, TextField

from models.clock import utc_text
from models.storage.cached_query import CachedQuery
from models.storage.rows import Row, UtcDateTimeField

EMAIL = "email"
JUNE_HOMES = "june_homes"
KINDS = (EMAIL, JUNE_HOMES)

# How long a destination that is down is left alone before one delivery probes it: longer each time.
PROBE_DELAYS = tuple(timedelta(seconds=s) for s in (5, 10, 20, 40, 60, 120, 300))
LONGEST_RETRY_AFTER = timedelta(days=1)
OPERATOR_DELAY = timedelta(hours=1)  # the same, if only the operator is likely to mend it
JITTER = 0.2  # the most that is added to a delay, as a part of it

NOT_HELD = {"failures": 0, "hold_until": None, "reason": None}


class Destination(Row):
    """Where the deliveries of one kind go. While it is paused or held, none of them is claimed."""

    kind = TextField(primary_key=True)
    configured = BooleanField(default=False)  # the server was started with an address for it
    paused = BooleanField(default=False)  # until the operator resumes it
    pause_reason = TextField(null=True)
    failures = IntegerField(default=0)  # in a row, of it as a whole; while > 0 one probe at a time
    hold_until = UtcDateTimeField(null=True)
    reason = TextField(null=True)  # of the hold


class BreakerState(enum.Enum):
    """Whether deliveries of a kind may leave: all, one at a time to see if it is back, or none."""

    CLOSED = enum.auto()
    HALF_OPEN = enum.auto()
    OPEN = enum.auto()


def breaker_state(kind: str, now: datetime) -> BreakerState:
    """Whether deliveries of this kind may leave now."""
    [(paused, hold_until, failures)] = _STATE.run(kind)
    if paused or (hold_until is not None and hold_until > utc_text(now)):
        return BreakerState.OPEN
    return BreakerState.HALF_OPEN if failures else BreakerState.CLOSED


_STATE = CachedQuery(
    lambda kind: Destination.select(Destination.paused, Destination.hold_until, Destination.failures).where(
        Destination.kind == kind
    )
)


def trip(
    kind: str, reason: str, now: datetime, retry_after: timedelta | None, *, needs_operator: bool
) -> None:
    """Let nothing leave for a while: longer each time, for an hour, or for retry_after if that is longer."""
    destination = Destination.get_by_id(kind)
    held_until = destination.hold_until
    if held_until is None or held_until <= now:  # else it is the same trouble, met by several at once
        destination.failures += 1
    delay = PROBE_DELAYS[min(destination.failures, len(PROBE_DELAYS)) - 1]
    delay = (OPERATOR_DELAY if needs_operator else delay) * (1 + random.random() * JITTER)
    if retry_after is not None:
        delay = min(max(retry_after, delay), LONGEST_RETRY_AFTER)
    destination.hold_until = max(held_until or now, now + delay)
    destination.reason = reason
    destination.save()


def shift_breakers(step: timedelta) -> None:
    """Move the ends of all holds by this much: the clock was set."""
    for destination in Destination.select().where(Destination.hold_until.is_null(False)):
        destination.hold_until += step
        destination.save()


def record_success(kind: str, now: datetime) -> None:
    """It answered, if only to refuse a delivery, so it is not down. A hold that runs is not cut short: what
    answered had left before it began.
    """
    _LIFT_HOLD.run(kind, now)


_LIFT_HOLD = CachedQuery(
    lambda kind, now: Destination.update(**NOT_HELD).where(
        Destination.kind == kind, Destination.failures > 0, Destination.hold_until <= now
    )
)


def configure_destinations(kinds: frozenset[str]) -> None:
    """At a server's start: note which kinds have an address, and lift the holds: settings may be new."""
    Destination.update(configured=Destination.kind.in_(kinds), **NOT_HELD).execute()


def why_waiting(destination: Destination, now: datetime) -> str | None:
    """Why deliveries of this kind wait, for the operator; None if they don't."""
    if destination.paused:
        return f"paused {destination.pause_reason or 'by the operator'}"
    if not destination.configured:
        setting = {EMAIL: "LEADS_SMTP_URL", JUNE_HOMES: "LEADS_JUNE_HOMES_URL"}[destination.kind]
        return f"no destination: {setting} is not set"
    if destination.hold_until is not None and destination.hold_until > now:
        return f"held until {utc_text(destination.hold_until)}: {destination.reason}"
    return None
