"""Slots: the time of a tour as a client writes it, and what is remarkable about it (C10)."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import Enum, auto
from unicodedata import category

EARLIEST_YEAR, LATEST_YEAR = 2000, 2100
LARGEST_OFFSET = 14  # hours, of any time zone

# ISO 8601, with a space for the T and before the offset, UTC or GMT for the Z, a space for the + that a form
# lost, a time zone's abbreviation behind the offset, and the groups in brackets of RFC 9557. Capitals only.
_TIME = r"\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?"
_END_OF_DAY = re.compile("24(?::?00(?::?00(?:[.,]0+)?)?)?")  # ISO 8601 has it as the next midnight
_OFFSET = r"\d\d(?::?\d\d(?::?\d\d)?)?"
_ABBREVIATION = r"[A-Z]{1,6}|[+-]?\d\d(?:\d\d)?"  # some zones have none but their offset
_ISO_8601 = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d(?:-?\d)?)"
    rf"(?:[T ](?P<time>{_TIME})"
    r"(?: ?(?:(?P<utc>Z|UTC|GMT)"
    rf"|(?:UTC|GMT)? ?(?P<sign>[+-]|(?<= ))(?P<offset>{_OFFSET})(?: (?:{_ABBREVIATION}))?)"
    r"(?: ?\[[^\[\]]+\])*)?)?",
    re.ASCII,
)
# JavaScript's Date as text. By `toString`: TUE DEC 01 2026 10:00:00 GMT-0500 (EASTERN STANDARD TIME); by
# `toUTCString`: TUE, 01 DEC 2026 15:00:00 GMT. What stands behind the year is as in ISO 8601.
_JAVASCRIPT = re.compile(
    r"[A-Z]{3},? (?:(?P<month>[A-Z]{3}) (?P<day>\d\d?)|(?P<day_first>\d\d?) (?P<month_second>[A-Z]{3}))"
    r" (?P<year>\d{4})(?P<time>[^(]*?)(?: \(.*\))?",
    re.ASCII,
)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# What scripts make of no date: NaN, undefinedTundefined, NaN-aN-aNTaN:aN, and T of two empty fields.
_NO_DATE = re.compile(r"(?:(?:UNDEFINED|NULL|N?AN|INVALID DATE(?:TIME)?)(?:[-T:.,/ ]+|$))+")
_NO_TIME = re.compile(rf"(?P<date>[\d-]{{8,10}})T(?:{_NO_DATE.pattern})?")
_NO_DAY = re.compile(rf"(?:{_NO_DATE.pattern}|UNDEFINED|NULL)?T(?:{_TIME})?")
_WRAPPING = "\"'"  # of a text that JSON.stringify made


class Remark(Enum):
    """What is remarkable about a slot, for the agent and for the integrator."""

    DATE_ALONE = auto()
    PAST = auto()  # when the lead came; of a date alone the whole day was
    REPEATED = auto()  # a change of clocks repeats the local time: it is the first of the two
    SKIPPED = auto()  # a change of clocks leaves the local time out: it is moved on by the gap


@dataclass(frozen=True, slots=True)
class Slot:
    """The time of a tour. moment: naive without an offset, which means the building's local time."""

    moment: datetime
    is_date: bool = False

    @property
    def day(self) -> date:
        """The day, as it was written."""
        return self.moment.date()

    def in_utc(self, zone: tzinfo) -> datetime:
        """Return the instant. zone: the building's."""
        return _in_utc(self.moment, zone)

    def remarks(self, zone: tzinfo, received_at: datetime) -> frozenset[Remark]:
        """Return what is remarkable. zone: the building's; received_at: when the lead came."""
        if self.is_date:
            is_past = _in_utc(self.moment + timedelta(days=1), zone) <= received_at
            return frozenset({Remark.DATE_ALONE, *([Remark.PAST] if is_past else [])})
        first, second = (_in_utc(self.moment.replace(fold=fold), zone) for fold in (0, 1))
        found = {
            Remark.PAST: first <= received_at,
            Remark.REPEATED: first < second,
            Remark.SKIPPED: first > second,
        }
        return frozenset(remark for remark, is_true in found.items() if is_true)


def _in_utc(moment: datetime, zone: tzinfo) -> datetime:
    # fold=0, the default, is the first of a repeated time, and moves on one that the clocks leave out.
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def parse_slot(text: str) -> Slot | None:
    """Return the slot; None for a text that JavaScript makes of no date. Raises ValueError."""
    text = " ".join(text.split()).upper()
    match = _ISO_8601.fullmatch(text)
    if match is None:
        text = "".join(c for c in text if category(c) != "Cf").strip(_WRAPPING)
        if _NO_DATE.fullmatch(text) or _NO_DAY.fullmatch(text):
            return None
        no_time = _NO_TIME.fullmatch(text)
        text = no_time["date"] if no_time else text
        match = _ISO_8601.fullmatch(text) or _ISO_8601.fullmatch(_rewritten(text))
        if match is None:
            raise ValueError(f"no date and time: {text}")
    day, time, utc, sign, offset = match.group("date", "time", "utc", "sign", "offset")
    zone = "Z" if utc else f"{sign or '+'}{offset}" if offset else ""
    if (
        sign == "" and int(offset[:2]) > LARGEST_OFFSET
    ):  # else 10:00 19:00, two hours, would be a time and an offset
        raise ValueError(f"no time zone: {offset}")
    ends_the_day = time is not None and _END_OF_DAY.fullmatch(time) is not None
    moment = datetime.fromisoformat(f"{day}T{'00:00' if ends_the_day else time}{zone}" if time else day)
    if ends_the_day:
        moment += timedelta(days=1)
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise ValueError(f"the year is not within {EARLIEST_YEAR} and {LATEST_YEAR}")
    return Slot(moment, is_date=time is None)


def _rewritten(text: str) -> str:
    """Return a text of JavaScript's Date with its day as ISO 8601 has it; '' for any other text."""
    match = _JAVASCRIPT.fullmatch(text)
    month = match and (match["month"] or match["month_second"])
    if match is None or month not in _MONTHS:
        return ""
    day = match["day"] or match["day_first"]
    return f"{match['year']}-{_MONTHS.index(month) + 1:02}-{day:0>2}{match['time']}"


def read_stored_slot(text: str | None) -> Slot | None:
    """Return the slot of a stored lead's `sent_slot`; None without one.

    None as well for a text that an earlier version took and this one does not.
    """
    try:
        return parse_slot(text) if text else None
    except ValueError:
        return None
