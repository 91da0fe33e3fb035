"""Owns the faults that the sandbox is told to have: where, what, how often. Seeded, so that a run repeats."""

import random
import re
from dataclasses import dataclass
from typing import Any

API, SMTP, PARTNER = "api", "smtp", "partner"
PLACES = (API, SMTP, PARTNER)
API_STATUSES = (429, 500, 503)
LONGEST_SECONDS = 60.0
SLOW, CUT = "slow", "cut"


class BadFault(ValueError):
    """A fault that can't be had. The message says what it takes."""


@dataclass
class Fault:
    """One fault. what: a status or SMTP reply to answer with, 'slow' or 'cut'. It happens to the next so
    many, or to a share of all; seconds: how slow, or what Retry-After says.
    """

    on: str
    what: str
    next: int | None
    share: float
    seconds: float

    @property
    def status(self) -> int | None:
        """The status, or code of the reply, to answer with; None if it is not that kind of fault."""
        return int(self.what[:3]) if self.what[:3].isdigit() else None

    def as_dict(self) -> dict[str, Any]:
        """As the sandbox's API shows it."""
        often = {"next": self.next} if self.next is not None else {"share": self.share}
        return {"on": self.on, "what": self.what, **often, "seconds": self.seconds}


class Faults:
    """The faults there are to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begin the dice anew."""
        self._dice = random.Random(seed)

    def add(self, wish: dict[str, Any]) -> Fault:
        """Have this fault from now on. Raises BadFault."""
        fault = read_fault(wish)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Have none, and begin the dice anew."""
        self._faults.clear()
        self.seed(0)

    def next_fault(self, place: str) -> Fault | None:
        """The fault that happens to whoever comes here now; None if none does."""
        for fault in self._faults:
            if fault.on != place:
                continue
            if fault.next is None:
                if self._dice.random() < fault.share:
                    return fault
            elif fault.next > 0:
                fault.next -= 1
                if fault.next == 0:
                    self._faults.remove(fault)
                return fault
        return None

    def as_dicts(self) -> list[dict[str, Any]]:
        """Those that are still to come."""
        return [fault.as_dict() for fault in self._faults]


def read_fault(wish: dict[str, Any]) -> Fault:
    """{"on": "api", "what": 503, "next": 2} as a fault. Raises BadFault."""
    if unknown := wish.keys() - {"on", "what", "next", "share", "seconds"}:
        raise BadFault(
            f"a fault has no {', '.join(sorted(unknown))}; it has on, what, next or share, seconds"
        )
    on, what = wish.get("on"), str(wish.get("what"))
    if on not in PLACES:
        raise BadFault(f"'on' is one of {', '.join(PLACES)}")
    if what not in (SLOW, CUT) and not _is_answer(on, what):
        raise BadFault(
            {
                API: "'what' is 429, 500, 503, 'slow' or 'cut'",
                SMTP: "'what' is an SMTP reply like '451 4.3.0 later', 'slow' or 'cut'",
                PARTNER: "'what' is an HTTP status from 300 on, 'slow' or 'cut'",
            }[on]
        )
    count, share = wish.get("next"), wish.get("share")
    if count is not None and share is not None:
        raise BadFault("it is either 'next' or 'share'")
    if count is None and share is None:
        count = 1
    if count is not None and (type(count) is not int or count < 1):
        raise BadFault("'next' is how many it happens to, from 1 on")
    if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):
        raise BadFault("'share' is a part of all, above 0 and up to 1")
    seconds = wish.get("seconds", 1)
    if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST_SECONDS:
        raise BadFault(f"'seconds' is a number from 0 to {LONGEST_SECONDS:.0f}")
    return Fault(on, what, count, share or 0.0, float(seconds))


def _is_answer(on: str, what: str) -> bool:
    if on == API:
        return what in map(str, API_STATUSES)
    if on == SMTP:
        return bool(re.fullmatch(r"[45][0-9]{2}( [ -~]{1,200})?", what))
    return bool(re.fullmatch("[345][0-9]{2}", what))
