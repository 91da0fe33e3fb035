"""Bodies of leads: what is accepted, how each field is stored, and the message of each error (C5-C16)."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import LEADS, ServerHarness
from hypothesis import given
from hypothesis import strategies as st
from tornado.httpclient import HTTPResponse

from handlers.api.body import decode_body
from handlers.api.submission import RequestMetadata, read_submission
from handlers.errors import BadRequest

MISSING = "param is missing or the value is empty: tour_request"
EMAIL = {"requestor_email": "jane@renter.test"}
FIELDS = (
    "requestor_name",
    "requestor_email",
    "requestor_phone",
    "message",
    "slot",
    "unit_preference",
    "utm_data",
    "listing_source",
    "listing_source_original_id",
    "request_host",
    "sms_consent",
)


def error_of(response: HTTPResponse) -> Any:
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.body)["error"]


async def nothing_stored(harness: ServerHarness) -> bool:
    return await harness.leads() == []


async def test_C5_json_with_every_field_is_stored_as_typed(harness: ServerHarness) -> None:
    tour = {
        "requestor_name": "Jané Doe 🏠",
        "requestor_email": "Jane@Renter.test",
        "requestor_phone": "(555) 123-4567",
        "message": "Two lines\nand a\ttab",
        "slot": "2026-12-01T10:00:00-05:00",
        "unit_preference": "4B",
        "utm_data": "?utm_source=news&utm_medium=mail",
        "listing_source": "zillow",
        "listing_source_original_id": "Z-1",
        "request_host": "maple.test",
        "sms_consent": "true",
    }
    assert (await harness.post({"token": "maple", "tour_request": tour})).code == 201
    lead = await harness.stored(1)
    for name in set(tour) - {"slot", "utm_data", "sms_consent"}:
        assert lead[name] == tour[name]
    assert lead["slot"] == "2026-12-01T15:00:00.000000Z"
    assert lead["utm_data"] == {"utm_source": "news", "utm_medium": "mail"}
    assert lead["sms_consent"] is True
    assert lead["sent"]["slot"] == tour["slot"]
    assert lead["sent"]["utm_data"] == tour["utm_data"]


@pytest.mark.parametrize(
    "media_type", ["application/json", "text/plain", "application/vnd.api+json", "?", ""]
)
async def test_C5_other_media_type_is_read_as_json(harness: ServerHarness, media_type: str) -> None:
    response = await harness.request(
        "POST", LEADS, json.dumps({"tour_request": EMAIL}), Content_Type=media_type
    )
    assert response.code == 201


async def test_C5_missing_content_type_is_read_as_json(harness: ServerHarness) -> None:
    body = json.dumps({"tour_request": EMAIL}).encode()
    head = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    assert (await harness.raw(head.encode() + body)).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    "body",
    [b"", b"  \n", b"null", b"[]", b"[1]", b'"text"', b"5", b"true", b"{}"]
    + [b'{"tour_request": ' + blank + b"}" for blank in (b"null", b'""', b'" \\n\\t "', b"{}", b'"\\u00a0"')]
    + [b'{"requestor_email": "a@b.test"}', b"\xef\xbb\xbf{}"],
)
async def test_C6_missing_or_blank_tour_request_is_400(harness: ServerHarness, body: bytes) -> None:
    response = await harness.request("POST", LEADS, body, Content_Type="application/json")
    assert (response.code, error_of(response)) == (400, MISSING)
    assert await nothing_stored(harness)


@pytest.mark.parametrize("value", [[], [1], "text", 5, 1.5, True, False, 0])
async def test_C6_tour_request_must_be_an_object(harness: ServerHarness, value: Any) -> None:
    response = await harness.post({"tour_request": value})
    assert (response.code, error_of(response)) == (400, "tour_request must be an object")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "malformed JSON at line 1, column 2"),
        (b'{"a": 1,}', "malformed JSON at line 1, column 8"),
        (b'{\n"a": tru}', "malformed JSON at line 2, column 6"),
        (b"{'a': 1}", "malformed JSON at line 1, column 2"),
        (b'{"a": NaN}', "malformed JSON at line 1, column 7"),
        (b'{"a": -Infinity}', "malformed JSON at line 1, column 8"),
        (rb'{"a": "\ud800"}', "malformed JSON at line 1, column 8"),
        (rb'{"tour_request": {"message": "\ude00\ud83d"}}', "malformed JSON at line 1, column 31"),
        (b'{"a":\n "\xff"}', "malformed JSON at byte 9, in line 2: it is not UTF-8 there"),
        (b"[" * 60_000, "malformed JSON at line 1, column 1026"),
        (b'{"a":' * 10_000 + b"1.5" + b"}" * 10_000, "malformed JSON at line 1, column 5122"),
        (b'{"a": 1} {"b": 2}', "malformed JSON at line 1, column 10"),
        (b'{"a": 1e400}', "malformed JSON at line 1, column 7"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "malformed JSON at line 1, column 7"),
        (b"hello", "malformed JSON at line 1, column 1"),
        (b"--- yaml", "malformed JSON at line 1, column 2"),
        (b"\x00", "malformed JSON at line 1, column 1"),
        (b'{"a": \x00}', "malformed JSON at line 1, column 7"),
        (b'{\x0c"a": 1}', "malformed JSON at line 1, column 2"),
        (b'{"a": "x\ny", b}', "malformed JSON at line 2, column 5"),
        ('{"é🏠": "\t\r\n\n🏠\x00\x1b", "b": tru}'.encode(), "malformed JSON at line 3, column 12"),
        (b'{"a": "\x01\\u12\n"}', "malformed JSON at line 1, column 9"),
        (b'{"a": "\n\\\n"}', "malformed JSON at line 2, column 1"),
        (b'{"a": "\n\\ud800"}', "malformed JSON at line 2, column 1"),
        (b'{"a": "x\n\n', "malformed JSON at line 3, column 1"),
        (b'{"a": "\n\\', "malformed JSON at line 2, column 2"),
        (b'{"a": "\n", "b": "\xff"}', "malformed JSON at byte 18, in line 2: it is not UTF-8 there"),
        (b'{"a": "\n", "b": ' + b"[" * 2_000, "malformed JSON at line 2, column 1033"),
        (b"\xff\xfe{\x00}\x00", "malformed JSON at byte 1, in line 1: it is not UTF-8 there"),
    ],
)
async def test_C7_malformed_json_error_gives_the_position(
    harness: ServerHarness, body: bytes, error: str
) -> None:
    response = await harness.request("POST", LEADS, body, Content_Type="application/json")
    assert response.code == 400
    assert error_of(response) == error
    assert await nothing_stored(harness)


CONTROLS = "".join(map(chr, range(0x20)))


@pytest.mark.parametrize("control", [*CONTROLS, "\r\n", "\n\n", CONTROLS, "\\\\\n", '\\"\n', "\\n\n\\t\t"])
async def test_C7_raw_control_character_in_a_string_is_taken(harness: ServerHarness, control: str) -> None:
    for value, body in (
        ("4B", '{"token": "maple",\n\t"tour_request": {"requestor_email": "a@b.test", "message": "a%sb"}}'),
        (
            "1.10",
            '{"tour_request": {"message": "a%sb", "unit_preference": 1.10, "requestor_email": "a@b.test"}}',
        ),
    ):
        escaped = control
        for character in CONTROLS:
            escaped = escaped.replace(character, f"\\u{ord(character):04x}")
        raw, expected = (decode_body("", (body % text).encode()) for text in (control, escaped))
        assert raw == expected
        assert value != "1.10" or raw["tour_request"]["unit_preference"] == value
    response = await harness.request("POST", LEADS, body % control, Content_Type="application/json")
    assert response.code == 201, response.body


def test_C7_deeply_nested_json_with_raw_control_is_never_500() -> None:
    for depth in range(900, 1_030, 13):
        deep = b'{"x\n": ' * depth + b"1.5" + b"}" * depth
        for body in (deep, b'"\x00"', b'"\x00\x00\x00"', b'["\x00"]', b'{"\x00": 1e5}'):
            try:
                decode_body("", body)
            except BadRequest as error:
                assert str(error.message).startswith("malformed JSON")


async def test_C7_raw_line_breaks_reach_the_stored_message(harness: ServerHarness) -> None:
    body = '{"tour_request": {"requestor_email": "a@b.test", "message": "One\r\nTwo\n\tThree\x00 \u001b🏠"}}'
    assert (await harness.request("POST", LEADS, body)).code == 201
    assert (await harness.stored(1))["message"] == "One\nTwo\n\tThree 🏠"


def as_json(text: str) -> str:
    """Return a JSON string that escapes only quotes and backslashes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.dictionaries(st.text(max_size=9), st.text(CONTROLS + 'aé🏠"\\', max_size=30), min_size=1))
def test_C7_any_unescaped_text_is_taken_whole(fields: dict[str, str]) -> None:
    pairs = ",\n".join(f"{as_json(name)}:\t{as_json(value)}" for name, value in fields.items())
    assert decode_body("", f"{{{pairs}}}".encode()) == fields


@given(
    st.text(CONTROLS + '{}[]":,\\u0aé1.5', max_size=60)
    | st.binary(max_size=60).map(lambda b: b.decode("latin-1"))
)
def test_C7_any_malformed_json_is_a_one_line_error(text: str) -> None:
    for body in (text.encode(), text.encode("utf-8") + b"\xff", f'{{"a": "\n{text}'.encode()):
        try:
            decode_body("", body)
        except BadRequest as error:
            message = str(error.message)
            assert re.fullmatch(
                r"malformed JSON at (line \d+, column \d+|byte \d+, in line \d+: it is .*)", message
            )
            if place := re.search(r"line (\d+), column (\d+)", message):
                line, column = map(int, place.groups())
                assert 1 <= column <= len(body.decode().split("\n")[line - 1]) + 1


async def test_C7_deeply_nested_json_is_never_500(
    harness: ServerHarness,
) -> None:
    for depth in range(900, 1_030, 13):
        deep = b'{"x": ' * depth + b"1.5" + b"}" * depth
        body = b'{"token": 1.5, "deep": ' + deep + b', "tour_request": {"requestor_email": "a@b.test"}}'
        response = await harness.request("POST", LEADS, body, Content_Type="application/json")
        assert response.code in (201, 400), depth


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("12345", "12345"),
        ("-0.50", "-0.50"),
        ("1.10", "1.10"),
        ("1E5", "1E5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
    ],
)
async def test_C8_number_or_boolean_is_taken_as_its_text(
    harness: ServerHarness, sent: str, stored: str
) -> None:
    body = f'{{"tour_request": {{"requestor_email": "a@b.test", "unit_preference": {sent}}}}}'
    assert (await harness.request("POST", LEADS, body)).code == 201
    assert (await harness.stored(1))["unit_preference"] == stored


@pytest.mark.parametrize("value", [[], {}, ["a"], {"a": "b"}, [None]])
@pytest.mark.parametrize("field", FIELDS)
async def test_C8_array_or_object_as_field_is_400(harness: ServerHarness, field: str, value: Any) -> None:
    response = await harness.post({"tour_request": {**EMAIL, field: value}})
    assert (response.code, error_of(response)) == (400, f"{field} must be a string")
    assert await nothing_stored(harness)


@pytest.mark.parametrize("field", ["token", "unified_address_id", "address_line_one"])
async def test_C8_array_as_top_level_field_is_400(harness: ServerHarness, field: str) -> None:
    response = await harness.post({field: ["maple"], "tour_request": EMAIL})
    assert (response.code, error_of(response)) == (400, f"{field} must be a string")


@pytest.mark.parametrize("blank", [None, "", " ", "\t\r\n", "\u00a0\u2003", "\x00", "\x07 \x1b"])
async def test_C8_blank_field_counts_as_not_sent(harness: ServerHarness, blank: str | None) -> None:
    optional = [name for name in FIELDS if name != "requestor_email"]
    await harness.lead(token=blank, **dict.fromkeys(optional, blank))
    lead = await harness.stored(1)
    for name in set(optional) - {"sms_consent", "request_host"}:
        assert lead[name] is None
    assert lead["sms_consent"] is False


async def test_C8_unknown_fields_are_ignored(harness: ServerHarness) -> None:
    body = {"x": [1], "tour_request": {**EMAIL, "id": 7, "spam": True, "unknown": {"a": []}}}
    assert (await harness.post(body)).code == 201
    assert (await harness.stored(1))["id"] == 1


@pytest.mark.parametrize(
    "email",
    [None, "", "  ", "jane", "jane@", "@renter.test", "a b@c.test", "a@b@c.test", "a@-b.test", "a@b..test"]
    + ["jane@renter.test, x@y.test", "Jane <jane@renter.test>", 5, "a@b\u202e.test"],
)
async def test_C9_blank_or_invalid_email_is_400(harness: ServerHarness, email: Any) -> None:
    response = await harness.post(
        {"token": "maple", "tour_request": {"requestor_email": email, "message": "hi"}}
    )
    assert (response.code, response.body) == (400, b'{"error": "Unable to create tour request"}')
    assert await nothing_stored(harness)


@pytest.mark.parametrize(
    "email",
    ["a@b.test", "a@printer.local", "a@localhost", "jane+tag@renter.example", "o'neil@b.invalid"]
    + ["jané@renter.test", "a@bücher.test", "用户@例子.测试", "a@xn--bcher-kva.test"],
)
async def test_C9_email_is_checked_by_syntax_only(harness: ServerHarness, email: str) -> None:
    await harness.lead(requestor_email=email)
    assert (await harness.stored(1))["requestor_email"] == email


@pytest.mark.parametrize("source", ["june_homes", "streeteasy", "nooklyn", "zillow"])
async def test_C11_known_listing_sources_are_accepted(harness: ServerHarness, source: str) -> None:
    await harness.lead(listing_source=source)
    assert (await harness.stored(1))["listing_source"] == source


@pytest.mark.parametrize("source", ["x", "Zillow", "june homes", " zillow", "zillow ", "5"])
async def test_C11_unknown_listing_source_is_400(harness: ServerHarness, source: str) -> None:
    response = await harness.post({"tour_request": {**EMAIL, "listing_source": source}})
    assert (response.code, error_of(response)) == (400, f"'{source}' is not a valid listing_source")


async def test_C13_blank_request_host_becomes_the_host_header(harness: ServerHarness) -> None:
    await harness.lead(request_host=" ")
    await harness.lead(request_host="www.maple.test")
    assert (await harness.stored(1))["request_host"] == harness.url.removeprefix("http://")
    assert (await harness.stored(2))["request_host"] == "www.maple.test"


@pytest.mark.parametrize(
    "value", [True, "True", "TRUE", "1", "yes", " true", "true ", "t\x00rue", 1, "false", None]
)
async def test_C14_only_the_string_true_is_consent(harness: ServerHarness, value: Any) -> None:
    await harness.lead(sms_consent=value)
    lead = await harness.stored(1)
    assert (lead["sms_consent"], lead["sms_consent_evidence"]) == (False, None)


async def test_C14_consent_is_stored_with_evidence(harness: ServerHarness) -> None:
    tour = {**EMAIL, "sms_consent": "true", "request_host": "maple.test"}
    await harness.post({"tour_request": tour}, User_Agent="Firefox/1")
    lead = await harness.stored(1)
    assert lead["sms_consent"] is True
    assert lead["sms_consent_evidence"] == {
        "at": lead["created_at"],
        "ip": "127.0.0.1",
        "user_agent": "Firefox/1",
        "host": "maple.test",
        "version": None,
        "origin": None,
    }


@pytest.mark.parametrize(
    ("unit", "property_type"), [("4B", "listing"), (None, "building"), ("  ", "building")]
)
async def test_C15_client_values_of_server_managed_fields_are_ignored(
    harness: ServerHarness, unit: str | None, property_type: str
) -> None:
    await harness.lead(unit_preference=unit, lead_source="phone", property_type="castle", id=99)
    lead = await harness.stored(1)
    assert (lead["lead_source"], lead["property_type"]) == ("website", property_type)


async def test_C16_body_over_64_kib_is_413(harness: ServerHarness) -> None:
    body = json.dumps({"tour_request": EMAIL}).encode()
    assert (await harness.request("POST", LEADS, body.ljust(65_536))).code == 201
    response = await harness.request("POST", LEADS, body.ljust(65_537), Origin="https://maple.test")
    assert (response.code, error_of(response)) == (413, "the body is too large (maximum is 65536 bytes)")
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"


@pytest.mark.parametrize("field", ["token", "unified_address_id", "address_line_one", *FIELDS])
async def test_C16_too_long_field_is_400(harness: ServerHarness, field: str) -> None:
    maximum = 10_000 if field in ("message", "utm_data") else 1_000
    too_long = {field: "é" * (maximum + 1)}
    at_the_top = field not in FIELDS
    response = await harness.post(
        {**too_long, "tour_request": EMAIL} if at_the_top else {"tour_request": {**EMAIL, **too_long}}
    )
    expected = f"{field} is too long (maximum is {maximum} characters)"
    assert (response.code, error_of(response)) == (400, expected)
    assert await nothing_stored(harness)


async def test_C16_longest_allowed_texts_are_stored_whole(harness: ServerHarness) -> None:
    await harness.lead(message="m" * 10_000, requestor_name="é" * 1_000)
    lead = await harness.stored(1)
    assert (len(lead["message"]), lead["requestor_name"]) == (10_000, "é" * 1_000)


async def test_C16_control_characters_are_dropped_except_message_lines_and_tabs(
    harness: ServerHarness,
) -> None:
    every = "".join(map(chr, [*range(32), 127, *range(128, 160)]))
    await harness.lead(
        requestor_name=f"Ja{every}ne", message=f"a{every}b\r\nc", utm_data="utm_source=a%00b%0Ac"
    )
    lead = await harness.stored(1)
    assert (lead["requestor_name"], lead["message"]) == ("Jane", "a\t\n\nb\nc")
    assert lead["utm_data"] == {"utm_source": "abc"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {"tour_request": json_values | st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6)},
    optional={name: json_values for name in ("token", "unified_address_id", "address_line_one", "other")},
)
plausible = st.fixed_dictionaries(
    {"requestor_email": st.just("jane@renter.test")},
    optional={
        **{
            name: st.text(max_size=30) for name in set(FIELDS) - {"requestor_email", "listing_source", "slot"}
        },
        "slot": st.datetimes(datetime(2000, 1, 1), datetime(2100, 12, 31)).map(datetime.isoformat),
        "listing_source": st.sampled_from(["june_homes", "zillow"]),
    },
)
form_texts = st.text("tour_request[]token=&%;+aZ0é\x00\r\n-", max_size=80)


def error_message(content_type: str, body: bytes) -> str | None:
    """Return the message of a BadRequest, or None for a lead. Any other exception would be a 500."""
    metadata = RequestMetadata("r" * 32, datetime(2026, 11, 23, tzinfo=UTC), "192.0.2.1", None, None)
    try:
        submission = read_submission(decode_body(content_type, body), metadata)
    except BadRequest as error:
        assert isinstance(error.message, str)
        assert error.message
        assert not any(c < " " for c in error.message)
        return error.message
    texts = [submission.message, submission.unit_preference, submission.renter.name, submission.renter.phone]
    assert not any("\x00" in text for text in texts if text)
    return None


@given(documents)
def test_C7_any_json_is_a_lead_or_a_one_line_error(document: Any) -> None:
    error_message("application/json", json.dumps(document).encode())


@given(plausible)
def test_C8_any_plausible_renter_input_is_a_lead(tour: dict[str, str]) -> None:
    assert error_message("application/json", json.dumps({"tour_request": tour}).encode()) is None


@given(
    st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "",
            ";",
            "\xff",
        ]
    ),
    st.binary(max_size=200)
    | form_texts.map(str.encode)
    | form_texts.map(lambda t: f"--b\r\n{t}\r\n--b--".encode()),
)
def test_C7_any_bytes_are_a_lead_or_a_one_line_error(content_type: str, body: bytes) -> None:
    error_message(content_type, body)


@pytest.mark.parametrize(
    "headers",
    [
        "Host: x\r\nTransfer-Encoding: gzip\r\n",
        "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "",
        "Host: a b\r\n",
        "Host: x\r\nHost: y\r\n",
    ],
)
async def test_C2_malformed_framing_is_400_in_json(harness: ServerHarness, headers: str) -> None:
    answer = await harness.raw(f"POST {LEADS} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"RateLimit-Limit:" in head, answer
    assert json.loads(body)["error"].startswith("malformed ")
    assert await harness.leads() == []
