"""The fields `slot` and `utm_data`: what is stored for each text (C10, C12)."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import ServerHarness
from hypothesis import given
from hypothesis import strategies as st

from handlers.api.submission import RequestMetadata, read_submission
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
        # a day whose time is missing, a time that ends the day, a text of JSON.stringify, a pasted one
        ("2026-12-01T", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01Tundefined", "2026-12-01T05:00:00.000000Z"),
        ("2026-11-30T24:00", "2026-12-01T05:00:00.000000Z"),
        ('"2026-12-01T10:00:00.000Z"', "2026-12-01T10:00:00.000000Z"),
        ("\u200b2026-12-01T10:00Z\u200e", "2026-12-01T10:00:00.000000Z"),
        ("20261201", "2026-12-01T05:00:00.000000Z"),
        # an hour that the clocks skip, and one that they repeat
        ("2026-03-08T02:30", "2026-03-08T07:30:00.000000Z"),
        ("2026-11-01T01:30", "2026-11-01T05:30:00.000000Z"),
        # an offset behind a space, or without the + that a form lost
        ("2026-12-01T10:00 +05:00", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01T10:00:00 05:00", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01T10:00 0530", "2026-12-01T04:30:00.000000Z"),
        ("2026-12-01 10:00:00  0530", "2026-12-01T04:30:00.000000Z"),
        ("2026-12-01 10:00:00.000 05", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01 10:00 14:00", "2026-11-30T20:00:00.000000Z"),
        ("2026-12-01 10:00\u00a0-05:00", "2026-12-01T15:00:00.000000Z"),
        # UTC by name
        ("2026-12-01T10:00:00 UTC", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01 10:00:00 gmt", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01T10:00:00 Z", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01 10:00 z", "2026-12-01T10:00:00.000000Z"),
        ("20261201T100000 UTC", "2026-12-01T10:00:00.000000Z"),
        # RFC 9557: the offset counts
        ("2026-12-01T10:00:00-05:00[America/New_York]", "2026-12-01T15:00:00.000000Z"),
        ("2026-12-01T10:00-05:00[Europe/Paris]", "2026-12-01T15:00:00.000000Z"),
        ("2026-12-01T10:00:00+00:00[UTC][u-ca=iso8601]", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01T10:00:00Z[!Etc/UTC]", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01T10:00:00 05:00[Asia/Tashkent]", "2026-12-01T05:00:00.000000Z"),
        ("2026-12-01T10:00-05:00 [America/New_York]", "2026-12-01T15:00:00.000000Z"),
        # an abbreviation behind the offset, as of Go and Ruby
        ("2026-12-01 10:00:00 +0000 UTC", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01 10:00:00 -0500 EST", "2026-12-01T15:00:00.000000Z"),
        ("2026-12-01 10:00:00.123456789 -0300 -03", "2026-12-01T13:00:00.123456Z"),
        ("2026-12-01 10:00:00  0000 UTC", "2026-12-01T10:00:00.000000Z"),
        ("2026-12-01 10:00:00 UTC+0100", "2026-12-01T09:00:00.000000Z"),
        # a Date of JavaScript, and of its libraries, as text
        ("Tue Dec 01 2026 10:00:00 GMT-0500 (Eastern Standard Time)", "2026-12-01T15:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT+0100 (Mitteleuropäische Normalzeit)", "2026-12-01T09:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT 0100 (Central European Time)", "2026-12-01T09:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT+0800 (中国标准时间)", "2026-12-01T02:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT-0300 (GMT-03:00)", "2026-12-01T13:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT+0000 (Coordinated Universal Time)", "2026-12-01T10:00:00.000000Z"),
        ("Tue Dec 01 2026 10:00:00 GMT-0500", "2026-12-01T15:00:00.000000Z"),
        ("tue dec 01 2026 10:00:00 gmt 0530", "2026-12-01T04:30:00.000000Z"),
        ("Tue, 01 Dec 2026 15:00:00 GMT", "2026-12-01T15:00:00.000000Z"),
        ("TUE, 01 DEC 2026 15:00:00 GMT", "2026-12-01T15:00:00.000000Z"),
        ("Tue, 1 Dec 2026 10:00:00 -0500", "2026-12-01T15:00:00.000000Z"),
        ("Tue Dec 01 2026", "2026-12-01T05:00:00.000000Z"),
        # the first and the last year, as they are written
        ("2000-01-01T00:00:00+14:00", "1999-12-31T10:00:00.000000Z"),
        ("2100-12-31T23:59:59-12:00", "2101-01-01T11:59:59.000000Z"),
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
    + ["0001-01-01", "9999-12-31T23:59:59-12:00", "2026-12-01x10:00", "12/01/2026"]
    # digits alone, unless they are a date
    + ["26", "2026", "202612", "20261301", "202612011000", "1796011200000", "1764583200.5"]
    + [1796011200000, 26, 2026.5, True]
    # years
    + ["1999-12-31T23:59:59-12:00", "2101-01-01", "0026-12-01", "1970-01-01T00:00:00.000Z"]
    + ["0000-00-00 00:00:00", "Thu Jan 01 1970 00:00:00 GMT+0000 (UTC)"]
    # an abbreviation, a zone or an AM that could mean several instants
    + ["2026-12-01T10:00 EST", "2026-12-01T10:00[America/New_York]", "2026-12-01 10:00 AM"]
    + ["2026-12-01T10:00 19:30", "2026-12-01T10:00 5", "2026-12-01 05:00 06:00 07:00", "2026-12-01Z"]
    + ["2026-12-01110:00", "2026-12-01T10.5", "2026-12-01T10:00.5", "2026-12-01T10:00-05:00[America/New_York"]
    + ["Tue Foo 01 2026 10:00:00 GMT", "Dec 01 2026", "Tue Dec 32 2026 10:00:00 GMT-0500"]
    + ["nullable", "Tue Dec 01 2026 10:00:00 EST" + " (" * 400]
    + [
        "٢٠٢٦-١٢-٠١",
        "2026-12-01T10:00ZZ",
        "0000-01-01",
        "-2026-12-01",
        "2026-12-01T10:00:61Z",
    ],
)
async def test_C10_unparseable_slot_is_400(harness: ServerHarness, slot: Any) -> None:
    response = await harness.post({"tour_request": {"requestor_email": "a@b.test", "slot": slot}})
    assert (response.code, response.body) == (400, b'{"error": "invalid date: slot"}')
    assert await harness.leads() == []


@pytest.mark.parametrize(
    "slot",
    [
        "undefined",
        "null",
        "NaN",
        "Invalid Date",
        "Invalid date",
        " INVALID DATE ",
        "Invalid DateTime",
        "UNDEFINED",
    ]
    + ["T", "T10:00", "undefinedT10:00", "NaN-aN-aNTaN:aN", "Invalid Date, Invalid Date"]
    + ["undefinedTundefined", "undefined undefined", "nullTnull", "NaN-NaN-NaN", "NaN-NaN-NaNTNaN:NaN"],
)
async def test_C10_javascripts_text_of_no_date_counts_as_blank(harness: ServerHarness, slot: str) -> None:
    await harness.lead(slot=slot)
    lead = await harness.stored(1)
    assert (lead["slot"], lead["sent"]["slot"]) == (None, None)


offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))
years = {"min_value": datetime(2000, 1, 1), "max_value": datetime(2100, 12, 31)}


@given(st.datetimes(**years, timezones=offsets))  # type: ignore[arg-type]  # its stub wants None
def test_C10_slot_with_offset_is_that_instant(instant: datetime) -> None:
    assert read(slot=instant.isoformat()).slot.in_utc(UTC) == instant


@given(st.text(max_size=40) | st.text("0123456789-:TZ+. W[GM()", max_size=30))
def test_C10_any_text_is_a_slot_or_invalid_date(text: str) -> None:
    try:
        slot = read(slot=text).slot
    except BadRequest as error:
        assert error.message == "invalid date: slot"
    else:
        assert slot is None or 1999 <= slot.in_utc(UTC).year <= 2101


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
        # a whole URL, or a path
        ("https://maple.test/tours?utm_source=news&gclid=1", {"utm_source": "news", "gclid": "1"}),
        ("https://maple.test/?utm_source=news#form", {"utm_source": "news"}),
        ("https://maple.test/a=b?utm_source=news", {"utm_source": "news"}),
        ("HTTPS://maple.test?utm_source=news", {"utm_source": "news"}),
        ("//maple.test/?utm_source=news", {"utm_source": "news"}),
        ("/tours?utm_source=news", {"utm_source": "news"}),
        ("maple.test/tours?utm_source=news", {"utm_source": "news"}),
        ("android-app://maple.test/?utm_source=news", {"utm_source": "news"}),
        ("https://maple.test/tours?u=https://oak.test/?a=1", {"u": "https://oak.test/?a=1"}),
        ("https://maple.test/tours", None),
        ("https://maple.test/#utm_source=news", None),
        ("https://maple.test/?", None),
        # a value may have a question mark
        ("utm_source=a?b", {"utm_source": "a?b"}),
        ("utm_source=news&u=https://oak.test/?a=1", {"utm_source": "news", "u": "https://oak.test/?a=1"}),
        # a fragment
        ("utm_source=news#top", {"utm_source": "news"}),
        ("?utm_source=%23news#top", {"utm_source": "#news"}),
        ("#top", None),
        # & as HTML escapes it
        ("utm_source=news&amp;utm_medium=mail", {"utm_source": "news", "utm_medium": "mail"}),
        (
            "?utm_source=news&amp;amp;utm_medium=mail&AMP;c=1",
            {"utm_source": "news", "utm_medium": "mail", "c": "1"},
        ),
        ("https://maple.test/?a=1&amp;b=2#top", {"a": "1", "b": "2"}),
        ("utm_source=news&#038;utm_medium=mail", {"utm_source": "news", "utm_medium": "mail"}),
        ("utm_source=news&#x26;utm_medium=mail", {"utm_source": "news", "utm_medium": "mail"}),
        ("utm_source=a%26amp;b", {"utm_source": "a&amp;b"}),
        # bytes that are not UTF-8
        ("utm_source=%E2%9C%93&x=%ff", {"utm_source": "✓", "x": "ÿ"}),
        ("utm_campaign=caf%E9+%80+caf%C3%A9", {"utm_campaign": "café € café"}),
        ("?", None),
        ("", None),
        ("  ", None),
        (None, None),
        ("utm_term=" + "x" * 9_991, {"utm_term": "x" * 9_991}),
    ],
)
async def test_C12_utm_data_is_stored_as_an_object(harness: ServerHarness, sent: Any, stored: Any) -> None:
    await harness.lead(utm_data=sent)
    assert (await harness.stored(1))["utm_data"] == stored


printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(st.dictionaries(printable, printable, min_size=1, max_size=8))
def test_C12_browser_encoding_is_decoded(pairs: dict[str, str]) -> None:
    encoded = urlencode(pairs)
    if len(encoded) <= 10_000:
        assert read(utm_data="?" + encoded).utm_data == pairs


@given(st.text(max_size=200))
def test_C12_any_text_becomes_an_object_of_clean_texts_or_null(text: str) -> None:
    utm = read(utm_data=text.encode(errors="replace").decode()).utm_data
    if utm is not None:
        assert json.loads(json.dumps(utm)) == utm
        assert not any(c < " " or c == "\x7f" for part in (*utm, *utm.values()) for c in part)
