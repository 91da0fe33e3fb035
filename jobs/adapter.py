"""The adapter interface: the context of a delivery, and the error of a failed attempt."""

import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.building import BuildingDict
from models.lead_dict import LeadForDelivery
from models.outbox.delivery import NEW_LEAD
from models.outbox.outcomes import Failure, FailureKind

REASON_LIMIT = 300  # characters
ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")  # in an error about several addresses of a host

# White space, control characters, marks of the writing direction, lone surrogates.
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """A delivery's lead and building. Each attempt at the same delivery gets the same stable_id.

    stable_id: only letters, digits, '_' and '-'. building: None if the lead is unassigned; of a lead that was
    taken away, the one that had it. recipient: of a mail, in place of the building's agent. content: what a
    mail says, one of CONTENTS. sent_at: when the content was first sent, or this attempt began; None: when
    the lead came. tour_id: the same in all mails about the lead's tour; '': the stable_id.
    """

    stable_id: str
    lead: LeadForDelivery
    building: BuildingDict | None
    recipient: str | None = None
    content: str = NEW_LEAD
    sent_at: datetime | None = None
    tour_id: str = ""

    @property
    def address(self) -> str | None:
        """The address that a mail goes to; None if the building has no agent."""
        return self.recipient or (self.building["agent_email"] if self.building else None)


class Adapter:
    """Sends the deliveries of one kind. Several may run at once."""

    async def deliver(self, context: DeliveryContext) -> str:
        """Deliver the lead, and return the destination's answer on one line.

        Raises DeliveryError; the caller treats any other error as TRANSIENT.
        """
        raise NotImplementedError

    async def deliver_digest(self, contexts: Sequence[DeliveryContext]) -> str:
        """Deliver several leads together, and return the answer. Raises as `deliver`."""
        raise NotImplementedError

    def recipient(self, context: DeliveryContext) -> str | None:
        """Return whom the delivery is for: an e-mail address, or the host of a URL."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections that were kept for the next delivery."""


class DeliveryError(Exception):
    """A failed attempt. The message is one line for the operator: which server did what, and what to do.

    said, hint: the two parts of the message. loggable: what was said, without words of the destination.
    content_sent: whether the destination may have got the content. is_of_content: whether it seems to refuse
    the content.
    """

    def __init__(
        self,
        said: str,
        kind: FailureKind = FailureKind.TRANSIENT,
        *,
        retry_after: timedelta | None = None,
        hint: str = "",
        loggable: str | None = None,
        content_sent: bool = False,
        is_of_content: bool = False,
    ) -> None:
        reason = one_line(f"{said}; {hint}" if hint else said, REASON_LIMIT)
        super().__init__(reason)
        self.said = one_line(said, REASON_LIMIT)
        self.hint = hint
        self.failure = Failure(
            reason,
            kind,
            retry_after,
            self.said if loggable is None else loggable,
            content_sent,
            is_of_content,
        )


def system_error_text(error: BaseException) -> str:
    """Return the system's text for an error, without Python's notation: 'Connection refused'."""
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    if isinstance(error, OSError) and (numbers := ERROR_NUMBER.findall(str(error))):
        return ", ".join(dict.fromkeys(os.strerror(int(number)) for number in numbers))
    return str(error)


def one_line(text: object, limit: int | None = None) -> str:
    """Return the text on one line, without control characters, cut to the limit with '…' as the last one."""
    line = _UNSAFE.sub(" ", str(text)).strip()
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"
