"""Owns the vocabulary of delivering: the context an adapter is given, and the error it answers with."""

import os
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import timedelta

from models.building import BuildingDict
from models.lead_record import LeadForDelivery
from models.outbox.claims import Failure, FailureKind

REASON_LIMIT = 300  # characters

# White space of any kind, controls, what turns the direction of writing, halves of surrogate pairs.
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """One delivery, with all that its adapter needs. The same delivery is always the same context.

    stable_id: the same on every attempt, of letters, digits, '_' and '-' alone.
    building: None if the lead is unassigned.
    """

    stable_id: str
    lead: LeadForDelivery
    building: BuildingDict | None


class Adapter:
    """The way out for one kind of delivery. Several may be on their way at once."""

    async def deliver(self, context: DeliveryContext) -> None:
        """Deliver it, or raise DeliveryError; any other error counts as one that may pass."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of what was kept for the next delivery."""


class DeliveryError(Exception):
    """An attempt failed. The reason is for the operator: one line, who refused what, and what to do.

    said, hint: the reason in its two parts, where they are told apart.
    """

    def __init__(
        self,
        said: str,
        verdict: FailureKind = FailureKind.TRANSIENT,
        *,
        retry_after: timedelta | None = None,
        hint: str = "",
    ) -> None:
        reason = one_line(f"{said}; {hint}" if hint else said, REASON_LIMIT)
        super().__init__(reason)
        self.said = one_line(said, REASON_LIMIT)
        self.hint = hint
        self.failure = Failure(reason, verdict, retry_after)


def in_words(error: BaseException) -> str:
    """What the system says of an error, without the program's own notation: 'Connection refused'."""
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error)


def one_line(text: object, limit: int | None = None) -> str:
    """The text on one line, free of controls; cut to so many characters, the last of which is then '…'."""
    line = _UNSAFE.sub(" ", str(text)).strip()
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"
