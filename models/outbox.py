"""Owns the outbox: what is to leave because of a lead, and how far it has got.

A delivery's states, and who moves it:

    pending    intake makes it so; it waits for its time, or for its destination to open
    sending    the dispatcher, by `claim`: counted as an attempt before anything leaves
    delivered  the dispatcher, by `settle`: the destination took it
    failed     the dispatcher, by `settle`: given up; stays until the operator retries it
    skipped    intake, or an erasure: it is not to leave at all, `reason` says why

From sending it goes back to pending when an attempt failed for a time, and at the start of a server: the
folder's lock proves that nobody else is sending it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from peewee import (
    SQL,
    AutoField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    TextField,
    fn,
)
from playhouse.apsw_ext import BooleanField

from models.building import Refused
from models.database import Row, UtcDateTimeField, as_text
from models.lead import Lead

EMAIL = "email"
JUNE_HOMES = "june_homes"
KINDS = (EMAIL, JUNE_HOMES)

PENDING, SENDING, DELIVERED, FAILED, SKIPPED = "pending", "sending", "delivered", "failed", "skipped"
STATES = (PENDING, SENDING, DELIVERED, FAILED, SKIPPED)

CUT_OFF = "cut off: the server stopped before it knew the outcome"
ERASED = "the customer was erased"

# How long a delivery waits after each failure of its own; one more failure and it is given up. Jitter only
# adds to them, so the last try is at least the sum of them, 85 hours, after the first.
RETRY_DELAYS = tuple(
    timedelta(minutes=m) for m in (0.25, 1, 5, 15, 30, 60, 120, 240, 480, 720, 1080, 1080, 1320)
)
JITTER = 0.2  # the most that is added, as a part of the delay

# How long a destination that is down as a whole is left alone before one delivery probes it.
PROBE_DELAYS = tuple(timedelta(seconds=s) for s in (5, 10, 20, 40, 60, 120, 300))
LONGEST_RETRY_AFTER = timedelta(days=1)


class Destination(Row):
    """Where the deliveries of one kind go. While it is paused or held, none of them is claimed."""

    kind = TextField(primary_key=True)
    configured = BooleanField(default=False)  # the server was started with an address for it
    paused = BooleanField(default=False)  # by the operator; only the operator resumes it
    failures = IntegerField(
        default=0
    )  # in a row, of the destination as a whole; while > 0 one probe at a time
    hold_until = UtcDateTimeField(null=True)
    reason = TextField(null=True)  # of the hold


class Delivery(Row):
    """One thing that is to leave because of one lead."""

    id = AutoField()
    lead = ForeignKeyField(Lead)
    lead_id: int
    kind = TextField()
    state = TextField()
    reason = TextField(null=True)
    attempts = IntegerField(default=0)  # how often it was tried
    failures = IntegerField(default=0)  # how often it was itself the reason; its backoff goes by this
    due_at = UtcDateTimeField(null=True)
    settled_at = UtcDateTimeField(null=True)


class DeliveryAttempt(Row):
    """One attempt at a delivery. Until it has ended its outcome is null."""

    delivery = ForeignKeyField(Delivery)
    number = IntegerField()
    started_at = UtcDateTimeField()
    ended_at = UtcDateTimeField(null=True)
    outcome = TextField(null=True)

    class Meta:
        primary_key = CompositeKey("delivery", "number")


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be made for a lead; with a reason to skip it, it will not leave."""

    lead_id: int
    kind: str
    skip_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for deliveries of one kind that are due, at most so many."""

    kind: str
    limit: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that its claimer, and nobody else, is now to attempt."""

    delivery_id: int
    lead_id: int
    kind: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    reason None: delivered. permanent: give it up. destination_down: the destination as a whole failed, so
    the delivery keeps its place and its count, and the destination is held: for `retry_after` if that is
    given, until the operator resumes it or the server starts anew if `until_resumed`, else a while.
    """

    claimed: Claimed
    ended_at: datetime
    reason: str | None = None
    permanent: bool = False
    destination_down: bool = False
    until_resumed: bool = False
    retry_after: timedelta | None = None
    jitter: float = field(default_factory=lambda: random.random() * JITTER)


FAR_FUTURE = datetime.fromisoformat("9999-01-01T00:00:00+00:00")


def enqueue(deliveries: Sequence[NewDelivery], now: datetime) -> None:
    """Put deliveries into the outbox, in the transaction of their leads."""
    Delivery.insert_many(
        [
            {
                "lead": d.lead_id,
                "kind": d.kind,
                "state": SKIPPED if d.skip_reason else PENDING,
                "reason": d.skip_reason,
                "due_at": None if d.skip_reason else now,
                "settled_at": now if d.skip_reason else None,
            }
            for d in deliveries
        ]
    ).execute()


def claim(claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Move the deliveries that are due to `sending` and count the attempt, before anything leaves."""
    return [_claim(one) for one in claims]


def _claim(asked: Claim) -> list[Claimed]:
    destination = Destination.get_by_id(asked.kind)
    limit = asked.limit
    if destination.paused or (destination.hold_until and destination.hold_until > asked.now):
        return []
    if destination.failures:  # it was down: one probe, and only when no other is on its way
        limit = 0 if _in_state(asked.kind, SENDING).exists() else 1
    due = (
        _in_state(asked.kind, PENDING)
        .where(Delivery.due_at <= asked.now)
        .order_by(Delivery.due_at, Delivery.id)
        .limit(limit)
    )
    ids = list(due.scalars())
    if not ids:
        return []
    moved = (
        Delivery.update(state=SENDING, attempts=Delivery.attempts + 1)
        .where(Delivery.id.in_(ids))
        .returning(Delivery.id, Delivery.lead, Delivery.attempts)
        .tuples()
        .execute()
    )
    claimed = sorted(
        (Claimed(row_id, lead_id, asked.kind, attempt) for row_id, lead_id, attempt in moved),
        key=lambda c: ids.index(c.delivery_id),
    )
    DeliveryAttempt.insert_many(
        [{"delivery": c.delivery_id, "number": c.attempt, "started_at": asked.now} for c in claimed]
    ).execute()
    return claimed


def _in_state(kind: str, state: str) -> Any:
    return Delivery.select(Delivery.id).where(Delivery.kind == kind, _state_is(state))


def _state_is(state: str) -> Any:
    # A literal, not a bound value: only then does SQLite take the index of that state's rows alone.
    assert state in STATES
    return Delivery.state == SQL(f"'{state}'")


def settle(outcomes: Sequence[Outcome]) -> list[str]:
    """Record how attempts ended; answers with the state each delivery is in now."""
    delivered = [o for o in outcomes if o.reason is None]
    _settle_delivered(delivered)
    return [DELIVERED if o.reason is None else _settle_failed(o) for o in outcomes]


def _settle_delivered(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    ids = [o.claimed.delivery_id for o in outcomes]
    latest = max(o.ended_at for o in outcomes)
    Delivery.update(state=DELIVERED, reason=None, due_at=None, settled_at=latest).where(
        Delivery.id.in_(ids), Delivery.state == SENDING
    ).execute()
    DeliveryAttempt.update(ended_at=latest, outcome=DELIVERED).where(
        DeliveryAttempt.delivery.in_(ids), DeliveryAttempt.outcome.is_null()
    ).execute()
    Destination.update(failures=0, hold_until=None, reason=None).where(
        Destination.kind.in_({o.claimed.kind for o in outcomes}), Destination.failures > 0
    ).execute()


def _settle_failed(outcome: Outcome) -> str:
    claimed = outcome.claimed
    DeliveryAttempt.update(ended_at=outcome.ended_at, outcome=outcome.reason).where(
        DeliveryAttempt.delivery == claimed.delivery_id, DeliveryAttempt.number == claimed.attempt
    ).execute()
    delivery = Delivery.get_by_id(claimed.delivery_id)
    if delivery.state != SENDING:  # erased meanwhile
        return delivery.state
    delivery.reason = outcome.reason
    if outcome.destination_down:
        delivery.state = PENDING
        delivery.due_at = outcome.ended_at  # behind all that waited longer: each probe is another delivery
        _hold(outcome)
    elif outcome.permanent or delivery.failures >= len(RETRY_DELAYS):
        delivery.state, delivery.due_at, delivery.settled_at = FAILED, None, outcome.ended_at
    else:
        delay = RETRY_DELAYS[delivery.failures] * (1 + outcome.jitter)
        delivery.failures += 1
        delivery.state, delivery.due_at = PENDING, outcome.ended_at + delay
    delivery.save()
    if not outcome.destination_down:  # it answered, if only to refuse this one
        Destination.update(failures=0, hold_until=None, reason=None).where(
            Destination.kind == claimed.kind, Destination.failures > 0
        ).execute()
    return delivery.state


def _hold(outcome: Outcome) -> None:
    destination = Destination.get_by_id(outcome.claimed.kind)
    held_until = destination.hold_until
    if held_until is None or held_until <= outcome.ended_at:  # else it is the same trouble, met by several
        destination.failures += 1
    delay = PROBE_DELAYS[min(destination.failures, len(PROBE_DELAYS)) - 1] * (1 + outcome.jitter)
    if outcome.retry_after is not None:
        delay = min(max(outcome.retry_after, delay), LONGEST_RETRY_AFTER)
    until = FAR_FUTURE if outcome.until_resumed else outcome.ended_at + delay
    destination.hold_until = max(held_until or until, until)
    destination.reason = outcome.reason
    destination.save()


def open_outbox(configured: Sequence[set[str]]) -> list[int]:
    """At a server's start: note which kinds have a destination, lift the holds, and put back to pending
    what a crash left in `sending`. Answers with how many of those there were, an operation of the writer.
    """
    counts = []
    for kinds in configured:
        Destination.update(
            configured=Destination.kind.in_(kinds), failures=0, hold_until=None, reason=None
        ).execute()
        sending = _state_is(SENDING)
        DeliveryAttempt.update(outcome=CUT_OFF).where(
            DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(sending)),
            DeliveryAttempt.outcome.is_null(),
        ).execute()
        counts.append(Delivery.update(state=PENDING).where(sending).execute())
    return counts


def list_deliveries(state: str | None, kind: str | None, limit: int, now: datetime) -> list[dict[str, Any]]:
    """The newest deliveries, of this state and kind if given, as listings show them."""
    rows = Delivery.select().order_by(Delivery.id.desc()).limit(limit)
    if state:
        rows = rows.where(_state_is(state))
    if kind:
        rows = rows.where(Delivery.kind == kind)
    waits = {row.kind: _why_waiting(row, now) for row in Destination.select()}
    return [
        {
            "id": row.id,
            "lead_id": row.lead_id,
            "kind": row.kind,
            "state": row.state,
            "attempts": row.attempts,
            "reason": (waits[row.kind] if row.state == PENDING else None) or row.reason,
            "due_at": as_text(row.due_at) if row.due_at else None,
            "settled_at": as_text(row.settled_at) if row.settled_at else None,
        }
        for row in rows
    ]


def list_destinations(now: datetime) -> list[dict[str, Any]]:
    """What each destination has waiting, and why it waits."""
    counts: dict[tuple[str, str], int] = {
        (kind, state): count
        for state in (PENDING, SENDING, FAILED)
        for kind, count in Delivery.select(Delivery.kind, fn.COUNT(Delivery.id))
        .where(_state_is(state))
        .group_by(Delivery.kind)
        .tuples()
        .execute()
    }
    return [
        {
            "kind": row.kind,
            "configured": bool(row.configured),
            "paused": bool(row.paused),
            "waits_because": _why_waiting(row, now),
            **{state: counts.get((row.kind, state), 0) for state in (PENDING, SENDING, FAILED)},
        }
        for row in Destination.select().order_by(Destination.kind)
    ]


def _why_waiting(destination: Destination, now: datetime) -> str | None:
    if destination.paused:
        return "paused by the operator"
    if not destination.configured:
        setting = {EMAIL: "LEADS_SMTP_URL", JUNE_HOMES: "LEADS_JUNE_HOMES_URL"}[destination.kind]
        return f"no destination: {setting} is not set"
    if destination.hold_until is not None and destination.hold_until > now:
        until = "resumed" if destination.hold_until == FAR_FUTURE else as_text(destination.hold_until)
        return f"held until {until}: {destination.reason}"
    return None


def retry_deliveries(ids: Sequence[int], now: datetime) -> list[int]:
    """Make these deliveries due now, their backoff begun anew, whether failed, skipped or waiting.

    Answers with their ids. Raises Refused, and changes none, if one can't be sent again.
    """
    rows = {row.id: row for row in Delivery.select().where(Delivery.id.in_(ids))}
    for row_id in ids:
        if row_id not in rows:
            raise Refused(f"there is no delivery {row_id}; see 'outbox list'")
        row = rows[row_id]
        if row.state in (SENDING, DELIVERED):
            raise Refused(f"delivery {row_id} is {row.state} already")
        if row.reason == ERASED:
            raise Refused(f"delivery {row_id} can't leave: {ERASED}")
    Delivery.update(state=PENDING, failures=0, due_at=now, settled_at=None).where(
        Delivery.id.in_(ids), Delivery.state.in_((PENDING, FAILED, SKIPPED))
    ).execute()
    return list(ids)


def retry_failed(kind: str | None, now: datetime) -> list[int]:
    """Make all deliveries that were given up, of this kind if given, due now; answers with their ids."""
    # One statement however many there are: after a long outage more than a statement has room for ids.
    due = Delivery.update(state=PENDING, failures=0, due_at=now, settled_at=None).where(_state_is(FAILED))
    due = due.where(Delivery.kind == kind) if kind else due
    return sorted(row_id for (row_id,) in due.returning(Delivery.id).tuples().execute())


def pause(kind: str) -> None:
    """Claim nothing of this kind until it is resumed; what is on its way arrives."""
    Destination.update(paused=True).where(Destination.kind == kind).execute()


def resume(kind: str) -> None:
    """Let this kind leave again at once, whatever held it."""
    Destination.update(paused=False, failures=0, hold_until=None, reason=None).where(
        Destination.kind == kind
    ).execute()
