"""Owns the vocabulary of delivering: the parcel an adapter is given, and the error it answers with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


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
    """An attempt failed. The message is for the operator: one line, who refused what, and what to do.

    permanent: trying this one again is of no use.
    destination_down: the destination as a whole failed; hold all that goes there: for retry_after if it
    named a time, for an hour if it needs_operator, else for a little while. That doesn't count against the
    delivery, unless it is suspect: perhaps it alone was the cause.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        destination_down: bool = False,
        needs_operator: bool = False,
        suspect: bool = False,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.destination_down = destination_down or needs_operator
        self.needs_operator = needs_operator
        self.suspect = suspect
        self.retry_after = retry_after
