"""Faults that the sandbox injects into the API, the mail server or the partner.

Faults for a share of all calls are random, but seeded: the same seed picks the same calls.
"""

import random
import re
from dataclasses import dataclass
from typing import Any

API, SMTP, PARTNER = "api", "smtp", "partner"
TARGETS = (API, SMTP, PARTNER)
API_STATUSES = (429, 500, 503)
MAX_SECONDS = 60.0
SLOW, CUT = "slow", "cut"


class InvalidFault(ValueError):
    """A fault that the sandbox can't inject. The message names the values that it accepts."""


@dataclass
class Fault:
    """One fault, for the next few calls or for a share of all calls.

    on: its target, one of TARGETS. what: an HTTP status or SMTP reply to send, 'slow' or 'cut'. next: the
    number of calls that it still affects; None if it affects a share. share: above 0, up to 1. seconds: the
    delay, or the value of Retry-After.
    """

    on: str
    what: str
    next: int | None
    share: float
    seconds: float

    @property
    def status(self) -> int | None:
        """The HTTP status or SMTP code to reply with; None for 'slow' and 'cut'."""
        return int(self.what[:3]) if self.what[:3].isdigit() else None

    def as_dict(self) -> dict[str, Any]:
        """Return the fault as the sandbox's API shows it."""
        frequency = {"next": self.next} if self.next is not None else {"share": self.share}
        return {"on": self.on, "what": self.what, **frequency, "seconds": self.seconds}


class Faults:
    """The faults that are still to be injected."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restart the random numbers that decide about faults with a share."""
        self._random = random.Random(seed)

    def add(self, fields: dict[str, Any]) -> Fault:
        """Add a fault. Raises InvalidFault."""
        fault = parse_fault(fields)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults, and restart the random numbers with seed 0."""
        self._faults.clear()
        self.seed(0)

    def next_fault(self, target: str) -> Fault | None:
        """Return the fault for the target's current call, and count it; None if there is none."""
        for fault in self._faults:
            if fault.on != target:
                continue
            if fault.next is None:
                if self._random.random() < fault.share:
                    return fault
            elif fault.next > 0:
                fault.next -= 1
                if fault.next == 0:
                    self._faults.remove(fault)
                return fault
        return None

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the remaining faults as the sandbox's API shows them."""
        return [fault.as_dict() for fault in self._faults]


def parse_fault(fields: dict[str, Any]) -> Fault:
    """Return {"on": "api", "what": 503, "next": 2} as a fault. Raises InvalidFault."""
    if unknown := fields.keys() - {"on", "what", "next", "share", "seconds"}:
        raise InvalidFault(
            f"a fault has no {', '.join(sorted(unknown))}; it has on, what, next or share, seconds"
        )
    on, what = fields.get("on"), str(fields.get("what"))
    if on not in TARGETS:
        raise InvalidFault(f"'on' is one of {', '.join(TARGETS)}")
    if what not in (SLOW, CUT) and not _is_reply(on, what):
        raise InvalidFault(
            {
                API: "'what' is 429, 500, 503, 'slow' or 'cut'",
                SMTP: "'what' is an SMTP reply like '451 4.3.0 later', 'slow' or 'cut'",
                PARTNER: "'what' is an HTTP status of 300 or above, 'slow' or 'cut'",
            }[on]
        )
    count, share = fields.get("next"), fields.get("share")
    if count is not None and share is not None:
        raise InvalidFault("send either 'next' or 'share', not both")
    if count is None and share is None:
        count = 1
    if count is not None and (type(count) is not int or count < 1):
        raise InvalidFault("'next' is a number of calls, at least 1")
    if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):
        raise InvalidFault("'share' is a number above 0 and at most 1")
    seconds = fields.get("seconds", 1)
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
        raise InvalidFault(f"'seconds' is a number from 0 to {MAX_SECONDS:.0f}")
    return Fault(on, what, count, share or 0.0, float(seconds))


def _is_reply(on: str, what: str) -> bool:
    if on == API:
        return what in map(str, API_STATUSES)
    if on == SMTP:
        return bool(re.fullmatch(r"[45][0-9]{2}( [ -~]{1,200})?", what))
    return bool(re.fullmatch("[345][0-9]{2}", what))
