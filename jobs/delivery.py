"""Owns the vocabulary of delivering: the parcel an adapter is given, and the error it answers with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from models.outbox import Failure, Verdict


@dataclass(frozen=True, slots=True)
class Parcel:
    """One delivery, with all that its adapter needs. The same delivery is always the same parcel.

    stable_id: the same on every attempt, of letters, digits, '_' and '-' alone.
    lead: `models.lead_record.lead_as_dict`; building: `models.building.building_as_dict`, None if unassigned.
    """

    stable_id: str
    lead: dict[str, Any]
    building: dict[str, Any] | None


# Delivers, or raises DeliveryError; any other error counts as one that may pass.
Adapter = Callable[[Parcel], Awaitable[None]]


class DeliveryError(Exception):
    """An attempt failed. The reason is for the operator: one line, who refused what, and what to do."""

    def __init__(
        self, reason: str, verdict: Verdict = Verdict.PASSING, *, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(reason)
        self.failure = Failure(reason, verdict, retry_after)
