"""The fields `slot` and `utm_data`: what is stored for each text (C10, C12)."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import ServerHarness
from hypothesis import given
from hypothesis import strategies as st

from handlers.api.validation import RequestMetadata, read_submission
from handlers.errors import BadRequest

METADATA = RequestMetadata("r" * 32, datetime(2026, 11, 23, tzinfo=UTC), "192.0.2.1", None, "maple.test")


def read(**fields: Any) -> Any:
    return read_submission({"tour_request": {"requestor_email": "a@b.test", **fields}}, METADATA)


@pytest.mark.parametrize(
    ("slot", "utc"),
    [
        ("2026-12-01T10:00:00Z", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01t10:00:00z", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01T10:00:00+05:30", "2026-12-01T04:30:00.000000Z"),
        ("2026-12-01T10:00:00.25-05:00", "2026-12-01T15:00:00.250000Z"),
        ("20261201T100000Z", "2026-12-01T10:00:00.000000Z"),
        (" 2026-12-01T10:00Z ", "2026-12-01T10:00:00.000000Z"),
        # without an offset: the building's own time zone, New York, in winter and in summer
        ("2026-12-01T10:00:00", "2026-12-01T15:00:00.000000Z"),
        ("2026-07-01 10:00", "2026-07-01T14:00:00.000000Z"),
        ("2026-12-01", "2026-12-01T05:00:00.000000Z"),
        ("20261201", "2026-12-01T05:00:00.000000Z"),
        # an hour that the clocks skip, and one that they repeat
        ("2026-03-08T02:30", "2026-03-08T07:30:00.000000Z"),
        ("2026-11-01T01:30", "2026-11-01T05:30:00.000000Z"),
    ],
)
async def test_C10_slot_is_stored_in_utc(harness: ServerHarness, slot: str, utc: str) -> None:
    await harness.building(token="ny", time_zone="America/New_York")
    await harness.lead(token="ny", slot=slot)
    lead = await harness.stored(1)
    assert (lead["slot"], lead["sent"]["slot"]) == (utc, slot)


async def test_C10_slot_without_offset_and_building_is_utc(harness: ServerHarness) -> None:
    await harness.lead(slot="2026-12-01T10:00")
    assert (await harness.stored(1))["slot"] == "2026-12-01T10:00:00.000000Z"


@pytest.mark.parametrize(
    "slot",
    [
        "tomorrow",
        "10:00",
        "2026-13-01",
        "2026-02-30",
        "2026-12-01T25:00",
        "2026-12-01T10:00+99:00",
        "1764583200",
    ]
    + ["0001-01-01", "9999-12-31T23:59:59-12:00", "2026-12-01x10:00", "12/01/2026", "2026-12-01T10:00 +05:00"]
    + [
        "٢٠٢٦-١٢-٠١",
        "2026-12-01T10:00ZZ",
        "2026-12-01T",
        "0000-01-01",
        "-2026-12-01",
        "2026-12-01T10:00:61Z",
    ],
)
async def test_C10_unparseable_slot_is_400(harness: ServerHarness, slot: str) -> None:
    response = await harness.post({"tour_request": {"requestor_email": "a@b.test", "slot": slot}})
    assert (response.code, response.body) == (400, b'{"error": "invalid date: slot"}')
    assert await harness.leads() == []


offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))
years = {"min_value": datetime(2, 1, 1), "max_value": datetime(9998, 12, 31)}


@given(st.datetimes(**years, timezones=offsets))  # type: ignore[arg-type]  # its stub wants None
def test_C10_slot_with_offset_is_that_instant(instant: datetime) -> None:
    assert read(slot=instant.isoformat()).slot == instant


@given(st.text(max_size=40) | st.text("0123456789-:TZ+. W", max_size=30))
def test_C10_any_text_is_a_slot_or_invalid_date(text: str) -> None:
    try:
        slot = read(slot=text).slot
    except BadRequest as error:
        assert error.message == "invalid date: slot"
    else:
        assert slot is None or 1 < slot.year < 9999 or slot.tzinfo is not None


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("utm_source=news", {"utm_source": "news"}),
        ("?utm_source=news&utm_medium=e%20mail", {"utm_source": "news", "utm_medium": "e mail"}),
        ("utm_source=a&utm_source=b", {"utm_source": "b"}),
        ("gclid=1&utm_term=a+b", {"gclid": "1", "utm_term": "a b"}),
        ("utm_source=", {"utm_source": ""}),
        ("utm_source", {"utm_source": ""}),
        ("??a=1", {"?a": "1"}),
        ("utm_source=%E2%9C%93&x=%ff", {"utm_source": "✓", "x": "�"}),
        ("?", None),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
async def test_C12_utm_data_is_stored_as_an_object(harness: ServerHarness, sent: Any, stored: Any) -> None:
    await harness.lead(utm_data=sent)
    assert (await harness.stored(1))["utm_data"] == stored


printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(st.dictionaries(printable, printable, min_size=1, max_size=8))
def test_C12_browser_encoding_is_decoded(pairs: dict[str, str]) -> None:
    encoded = urlencode(pairs)
    if len(encoded) <= 1_000:
        assert read(utm_data="?" + encoded).utm_data == pairs


@given(st.text(max_size=200))
def test_C12_any_text_becomes_an_object_of_clean_texts_or_null(text: str) -> None:
    utm = read(utm_data=text.encode(errors="replace").decode()).utm_data
    if utm is not None:
        assert json.loads(json.dumps(utm)) == utm
        assert not any(c < " " or c == "\x7f" for part in (*utm, *utm.values()) for c in part)
