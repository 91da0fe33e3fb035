"""HTML forms as bodies of leads: charsets, boundaries, and the building's keys in the query (C5, C7)."""

import json
from typing import Any
from urllib.parse import quote, quote_from_bytes, urlencode

import pytest
from conftest import LEADS, ServerHarness
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httpclient import HTTPResponse

from handlers.api.body import decode_body
from handlers.errors import BadRequest

URLENCODED = "application/x-www-form-urlencoded"
MISSING = "param is missing or the value is empty: tour_request"
EMAIL = {"requestor_email": "jane@renter.test"}
FORM = {
    "token": "maple",
    "tour_request[requestor_email]": "jane@renter.test",
    "tour_request[message]": "Hé + &",
}


def error_of(response: HTTPResponse) -> Any:
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.body)["error"]


def urlencoded(fields: dict[str, bytes]) -> bytes:
    return "&".join(f"{quote(name)}={quote_from_bytes(value)}" for name, value in fields.items()).encode()


def multipart(fields: dict[str, bytes], boundary: str = "b0und") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def encoded(fields: dict[str, str], charset: str = "utf-8") -> dict[str, bytes]:
    return {name: value.encode(charset) for name, value in fields.items()}


def message_of(content_type: str, message: bytes, **fields: str) -> Any:
    """Return the message that is decoded of a form of the content type, with these other fields."""
    make = multipart if content_type.startswith("multipart") else urlencoded
    body = make({**encoded(fields), "tour_request[message]": message})
    return decode_body(content_type, body)["tour_request"]["message"]


@pytest.mark.parametrize("media_type", [URLENCODED, "Application/X-WWW-Form-Urlencoded"])
async def test_C5_urlencoded_form_is_accepted(harness: ServerHarness, media_type: str) -> None:
    response = await harness.request(
        "POST", LEADS, urlencode(FORM), Content_Type=f"{media_type}; charset=UTF-8"
    )
    assert response.code == 201, response.body
    lead = await harness.stored(1)
    assert (lead["building_id"], lead["requestor_email"], lead["message"]) == (
        1,
        "jane@renter.test",
        "Hé + &",
    )


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/form-data; boundary="b0und"', "b0und"),
        ("multipart/form-data; boundary=b0und", "b0und"),
        ("Multipart/Form-Data;Boundary=b0und;charset=utf-8", "b0und"),
        ("multipart/form-data; charset=UTF-8; boundary=b0und ", "b0und"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryAbC123", "----WebKitFormBoundaryAbC123"),
        ('multipart/form-data; boundary="a b:c/d=e?f"', "a b:c/d=e?f"),
        ("multipart/form-data; boundary=" + "x" * 70, "x" * 70),
    ],
)
async def test_C5_multipart_form_is_accepted(
    harness: ServerHarness, content_type: str, boundary: str
) -> None:
    body = multipart(encoded(FORM), boundary)
    response = await harness.request("POST", LEADS, body, Content_Type=content_type)
    assert response.code == 201, response.body
    assert (await harness.stored(1))["message"] == "Hé + &"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("tour_request=abc", "tour_request must be an object"),
        ("tour_request[]=abc", "tour_request must be an object"),
        ("tour_request=", MISSING),
        ("requestor_email=a@b.test", MISSING),
        ("", MISSING),
        ("tour_request[requestor_email][]=a", "requestor_email must be a string"),
        ("tour_request[requestor_email][x]=a", "requestor_email must be a string"),
        ("tour_request[requestor_email]=a@b.test&token[]=x", "token must be a string"),
        ("tour_request[requestor_email]=%ff", "Unable to create tour request"),
        (
            "&".join(f"a{number}=" for number in range(1_001)),
            "the form has too many fields (maximum is 1000)",
        ),
    ],
)
async def test_C5_invalid_form_gets_the_same_errors_as_json(
    harness: ServerHarness, form: str, error: str
) -> None:
    response = await harness.request("POST", LEADS, form, Content_Type=URLENCODED)
    assert (response.code, error_of(response)) == (400, error)
    assert await harness.leads() == []


@pytest.mark.parametrize(
    "body",
    [
        b"whatever",
        b"--x\r\nno header end",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="\xff\r\n\r\nv\r\n--y--',
    ],
)
async def test_C7_malformed_multipart_body_is_400(harness: ServerHarness, body: bytes) -> None:
    response = await harness.request("POST", LEADS, body, Content_Type="multipart/form-data; boundary=x")
    assert (response.code, error_of(response)) == (400, "malformed multipart/form-data body")


@pytest.mark.parametrize("parameters", ["", ";", "; boundary", "; boundary=", '; boundary=""', "; bound=x"])
async def test_C5_multipart_body_without_boundary_is_400(harness: ServerHarness, parameters: str) -> None:
    content_type = f"multipart/form-data{parameters}"
    response = await harness.request("POST", LEADS, multipart(encoded(FORM)), Content_Type=content_type)
    assert (response.code, error_of(response)) == (
        400,
        "the Content-Type multipart/form-data lacks its boundary: let the library that makes the body set it",
    )


@pytest.mark.parametrize("boundary", ["x" * 71, "x" * 5_000, '"' + "x" * 71 + '"'])
async def test_C5_boundary_over_70_characters_is_400(harness: ServerHarness, boundary: str) -> None:
    body = multipart(encoded(FORM), boundary.strip('"'))
    response = await harness.request(
        "POST", LEADS, body, Content_Type=f"multipart/form-data; boundary={boundary}"
    )
    assert (response.code, error_of(response)) == (
        400,
        "the multipart boundary is too long: use one of at most 70 characters",
    )


async def test_C8_uploaded_file_is_not_a_string(harness: ServerHarness) -> None:
    body = multipart(encoded(FORM)).replace(b'name="token"', b'name="token"; filename="a.txt"')
    response = await harness.request("POST", LEADS, body, Content_Type="multipart/form-data; boundary=b0und")
    assert (response.code, error_of(response)) == (400, "token must be a string")


# Charsets.

BOTH_TYPES = pytest.mark.parametrize("form", [URLENCODED, "multipart/form-data; boundary=b0und"])
CHARSETS = [  # label, Python's codec, a text
    ("utf-8", "utf-8", "José 🏠 “quoted”"),
    ("UTF8", "utf-8", "José"),
    ("iso-8859-1", "cp1252", "José’s “flat” – 5 €"),
    ("Latin1", "cp1252", "naïve œuvre"),
    ("us-ascii", "cp1252", "José"),
    ("windows-1252", "cp1252", "José’s"),
    ("iso-8859-15", "iso-8859-15", "5 € œ"),
    ("windows-1250", "cp1250", "Łódź žluťoučký"),
    ("windows-1251", "cp1251", "Квартира ещё свободна?"),
    ("koi8-r", "koi8-r", "Привет"),
    ("iso-8859-7", "iso-8859-7", "Καλημέρα"),
    ("windows-1254", "cp1254", "İstanbul ığüş"),
    ("windows-1256", "cp1256", "مرحبا"),
    ("macintosh", "mac-roman", "José’s"),
    ("shift_jis", "cp932", "部屋①は～空"),
    ("euc-jp", "euc_jp", "部屋"),
    ("iso-2022-jp", "iso2022_jp", "部屋"),
    ("gbk", "gbk", "公寓"),
    ("gb2312", "gbk", "公寓"),
    ("big5", "big5", "公寓"),
    ("euc-kr", "cp949", "아파트 똠"),
    ("x-user-defined", "latin-1", "abc"),
]


@BOTH_TYPES
@pytest.mark.parametrize(("label", "codec", "text"), CHARSETS)
def test_C5_form_is_decoded_by_its_declared_charset(form: str, label: str, codec: str, text: str) -> None:
    message = text.encode(codec)
    for declared in (
        f"charset={label}",
        f'Charset="{label.upper()}"',
        f"charset= {label}",
        f"charset='{label}'",
    ):
        assert message_of(f"{form}; {declared}", message) == text
    assert message_of(form, message, _charset_=label) == text


@BOTH_TYPES
async def test_C5_declared_charset_reaches_the_stored_lead(harness: ServerHarness, form: str) -> None:
    make = multipart if form.startswith("multipart") else urlencoded
    for number, declared in enumerate(("windows-1251", None), 1):
        fields = FORM | {"tour_request[message]": "Ещё свободна?", "_charset_": "windows-1251"}
        content_type = f"{form}; charset={declared}" if declared else form
        body = make(encoded(fields, "cp1251"))
        assert (await harness.request("POST", LEADS, body, Content_Type=content_type)).code == 201
        assert (await harness.stored(number))["message"] == "Ещё свободна?"


@BOTH_TYPES
def test_C5_charset_of_the_content_type_outranks_that_of_the_form(form: str) -> None:
    assert message_of(f"{form}; charset=koi8-r", "Привет".encode("koi8-r"), _charset_="utf-8") == "Привет"
    assert message_of(f"{form}; charset=none-such", "Привет".encode("koi8-r"), _charset_="koi8-r") == "Привет"


@BOTH_TYPES
@pytest.mark.parametrize(
    "label",
    ["", "none-such", "utf-16", "UTF-16LE", "utf-16be", "replacement", "iso-2022-kr", "\xff", "utf-7"],
)
def test_C5_unknown_charset_or_one_no_form_has_is_utf_8(form: str, label: str) -> None:
    assert message_of(f"{form}; charset={label}", "José 🏠".encode()) == "José 🏠"
    assert message_of(form, "José 🏠".encode(), _charset_=label) == "José 🏠"
    assert message_of(form, "José 🏠".encode()) == "José 🏠"


@BOTH_TYPES
@pytest.mark.parametrize("declared", ["", "; charset=utf-8", "; charset=utf-16", "; charset=shift_jis"])
def test_C5_text_that_fails_to_decode_is_windows_1252(form: str, declared: str) -> None:
    assert message_of(form + declared, b"5 \x80 \x93x\x94 \xe9") == "5 € “x” é"
    assert message_of(form + declared, b"\x81\x8d\x8f\x90\x9d \xff") == "\x81\x8d\x8f\x90\x9d ÿ"


@BOTH_TYPES
async def test_C5_each_text_is_judged_by_itself(harness: ServerHarness, form: str) -> None:
    fields = encoded(FORM) | {
        "tour_request[requestor_name]": b"Jos\xe9\x81",
        "tour_request[message]": "José 🏠".encode(),
    }
    body = (multipart if form.startswith("multipart") else urlencoded)(fields)
    assert (await harness.request("POST", LEADS, body, Content_Type=form)).code == 201
    lead = await harness.stored(1)
    assert (lead["requestor_name"], lead["message"]) == ("José", "José 🏠")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"I&#8217;m 5&#128512;", "I’m 5😀"),
        (b"&#1055;&#1088;", "Пр"),
        (b"&#38; &#65; &#127; &#x2019; &rsquo; &#8217", "&#38; &#65; &#127; &#x2019; &rsquo; &#8217"),
        (b"&#55357; &#1114112; &#9999999; &#99999999; &#;", "&#55357; &#1114112; &#9999999; &#99999999; &#;"),
    ],
)
@BOTH_TYPES
def test_C5_references_are_characters_in_a_legacy_charset_only(form: str, sent: bytes, read: str) -> None:
    for label in ("windows-1252", "iso-8859-1", "windows-1252", "shift_jis"):
        assert message_of(f"{form}; charset={label}", sent) == read
        assert message_of(form, sent, _charset_=label) == read
    for declared in ("", "; charset=utf-8", "; charset=utf-16", "; charset=none-such"):
        assert message_of(form + declared, sent) == sent.decode()


@BOTH_TYPES
def test_C5_references_are_characters_if_another_text_is_windows_1252(form: str) -> None:
    make = multipart if form.startswith("multipart") else urlencoded
    body = make({"tour_request[message]": b"&#128512;", "tour_request[requestor_name]": b"Jos\xe9"})
    assert decode_body(form, body)["tour_request"] == {"message": "😀", "requestor_name": "José"}


def test_C8_json_keeps_references() -> None:
    document = {"tour_request": {"message": "I&#8217;m"}}
    for content_type in ("application/json; charset=iso-8859-1", "application/json", ""):
        assert decode_body(content_type, json.dumps(document).encode()) == document


@pytest.mark.parametrize("codec", ["utf-8", "cp1252"])
def test_C5_names_have_the_charset_too(codec: str) -> None:
    name = b"tour_request[t\xe9l]".decode("cp1252").encode(codec)
    file = b'--b\r\nContent-Disposition: form-data; name="f"; filename="\xe9.txt"\r\n\r\nx\r\n'
    part = b'--b\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n\xe9\r\n--b--\r\n'
    for content_type, body in (
        ("multipart/form-data; boundary=b", file + part),
        (URLENCODED, name + b"=\xe9"),
        (URLENCODED, quote_from_bytes(name).encode() + b"=%E9"),
    ):
        assert decode_body(content_type, body)["tour_request"] == {"tél": "é"}


form_types = st.sampled_from([URLENCODED, "multipart/form-data; boundary=b"])
labels = st.sampled_from([label for label, _, _ in CHARSETS]) | st.text(max_size=20)


@given(form_types, labels, labels, st.binary(max_size=60), st.binary(max_size=60))
@settings(deadline=None)
def test_C7_any_form_is_a_dict_or_a_one_line_error(
    form: str, label: str, field: str, name: bytes, value: bytes
) -> None:
    pairs = {b"_charset_": field.encode(), b"tour_request[" + name + b"]": value}
    if form == URLENCODED:
        body = b"&".join(f"{quote(name)}={quote(value)}".encode() for name, value in pairs.items())
    else:
        part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        body = b"".join(part % pair for pair in pairs.items()) + b"--b--\r\n"
    try:
        document = decode_body(f"{form}; charset={label}", body)
    except BadRequest as error:
        assert error.message == "malformed multipart/form-data body"
    else:
        json.dumps(document, ensure_ascii=False).encode()  # there are no lone surrogates


@given(st.text(max_size=80), st.binary(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_C7_any_parameters_are_a_dict_or_a_one_line_error(parameters: str, body: bytes, query: str) -> None:
    for media_type in (URLENCODED, "multipart/form-data"):
        for header in (parameters, f'boundary="{parameters}"', f"charset={parameters}; boundary=b"):
            try:
                header = f"{media_type};{header}".encode().decode("latin-1")
                decode_body(header, body, query.encode().decode("latin-1"))
            except BadRequest as error:
                assert isinstance(error.message, str) and "\n" not in error.message


# The building's keys in the query.


@pytest.mark.parametrize(
    "query",
    [
        "token=maple",
        "x=1&token=maple&",
        "token=elsewhere&token=maple",
        "address_line_one=12+Maple+Street",
        "address_line_one=12%20Maple%20Street",
        "token=&address_line_one=12%20Maple%20Street",
        "token=maple?",
        "%74oken=%6Daple",
    ],
)
@pytest.mark.parametrize("keys", [{}, {"token": None, "unified_address_id": ""}, {"token": " \x00"}])
async def test_C5_building_keys_are_read_from_the_query(
    harness: ServerHarness, query: str, keys: dict[str, Any]
) -> None:
    response = await harness.post({**keys, "tour_request": EMAIL}, f"{LEADS}?{query}")
    assert response.code == 201
    assert (await harness.stored(1))["building_id"] == (None if query.endswith("?") else 1)


@pytest.mark.parametrize("path", [LEADS + "/", LEADS + ".json", "/api/v1/tour_requests"])
async def test_C5_form_may_have_its_token_in_the_query(harness: ServerHarness, path: str) -> None:
    fields = encoded({name: value for name, value in FORM.items() if name != "token"})
    for make, content_type in (
        (urlencoded, URLENCODED),
        (multipart, "multipart/form-data; boundary=b0und"),
    ):
        response = await harness.request(
            "POST", f"{path}?token=maple", make(fields), Content_Type=content_type
        )
        assert response.code == 201
    assert [lead["building_id"] for lead in await harness.leads()] == [1, 1]


@pytest.mark.parametrize(
    "keys",
    [
        {"token": "unknown"},
        {"token": 5},
        {"unified_address_id": "unknown"},
        {"token": "", "address_line_one": "unknown"},
    ],
)
async def test_C5_query_is_not_read_if_the_body_has_a_key(
    harness: ServerHarness, keys: dict[str, Any]
) -> None:
    response = await harness.post({**keys, "tour_request": EMAIL}, f"{LEADS}?token=maple")
    assert response.code == 201
    assert (await harness.stored(1))["building_id"] is None


async def test_C5_only_building_keys_are_read_from_the_query(harness: ServerHarness) -> None:
    query = "tour_request[message]=x&return_to=y&tour_request[requestor_email]=a@b.test"
    response = await harness.post({}, f"{LEADS}?{query}")
    assert (response.code, error_of(response)) == (400, MISSING)
    assert (await harness.post({"tour_request": EMAIL}, f"{LEADS}?{query}")).code == 201
    assert (await harness.stored(1))["message"] is None


async def test_C16_token_in_the_query_has_the_same_limit(harness: ServerHarness) -> None:
    response = await harness.post({"tour_request": EMAIL}, f"{LEADS}?token={'x' * 1_001}")
    assert error_of(response) == "token is too long (maximum is 1000 characters)"


# Content-Encoding.


@pytest.mark.parametrize("coding", ["identity", "Identity", "", " ", "identity, identity"])
async def test_C5_identity_is_no_coding(harness: ServerHarness, coding: str) -> None:
    body = json.dumps({"tour_request": EMAIL}).encode()
    head = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: {coding}\r\n"
    answer = await harness.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "utf-8"])
async def test_C5_coded_body_is_415(harness: ServerHarness, coding: str) -> None:
    response = await harness.request(
        "POST", LEADS, b"\x1f\x8b" * 9_000, Content_Encoding=coding, Origin="https://maple.test"
    )
    assert (response.code, error_of(response)) == (
        415,
        "the body must not be compressed: send it without a Content-Encoding header",
    )
    assert response.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert response.headers["Accept-Encoding"] == "identity"


async def test_C5_connection_stays_usable_after_415(harness: ServerHarness) -> None:
    body = json.dumps({"tour_request": EMAIL})
    head = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    answers = await harness.raw(
        f"{head}Content-Encoding: gzip\r\n\r\n{body}{head}Connection: close\r\n\r\n{body}".encode()
    )
    assert answers.count(b"HTTP/1.1 ") == 2
    assert answers.startswith(b"HTTP/1.1 415 ") and b"HTTP/1.1 201 " in answers
