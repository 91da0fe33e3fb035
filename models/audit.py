"""The audit log: who changed what, and when. It has names of fields and never their values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from peewee import AutoField, TextField

from models.storage.rows import JsonField, Row, UtcDateTimeField


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of an action. kind: such as COMMAND_LINE; name: such as that of the Unix user."""

    kind: str
    name: str


COMMAND_LINE, SANDBOX = "command line", "sandbox"


class AuditEntry(Row):
    """One action of an actor on one subject. It holds no personal data of renters, so erasure leaves it."""

    id = AutoField()
    at = UtcDateTimeField()
    actor_kind = TextField()
    actor_name = TextField()
    action = TextField()  # a noun and a verb: "building.update"
    subject_kind = TextField()  # a noun: "building", "delivery"
    subject_id = TextField(null=True)  # the primary key as text; null: all that the action applies to
    fields = JsonField()  # the names of the fields that were given


def record_action(
    actor: Actor,
    action: str,
    subject_kind: str,
    subject_id: object,
    now: datetime,
    fields: Iterable[str] = (),
) -> None:
    """Record an action, in its own transaction. subject_id: None if it applies to all of that kind."""
    record_actions(actor, action, subject_kind, [subject_id], now, fields)


def record_actions(
    actor: Actor,
    action: str,
    subject_kind: str,
    subject_ids: Sequence[object],
    now: datetime,
    fields: Iterable[str] = (),
) -> None:
    """Record an action on several subjects, an entry each."""
    names = sorted(fields)
    for subject_id in subject_ids:
        AuditEntry.create(
            at=now,
            actor_kind=actor.kind,
            actor_name=actor.name,
            action=action,
            subject_kind=subject_kind,
            subject_id=None if subject_id is None else str(subject_id),
            fields=names,
        )
