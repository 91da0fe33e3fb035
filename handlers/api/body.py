"""Decoding of bodies: JSON or an HTML form to one dict."""

import json
import re
from contextlib import suppress
from typing import Any

import orjson

from handlers.api.form import FORM_TYPES, URLENCODED, decode_form, media_type
from handlers.api.text import clean_text
from handlers.errors import BadRequest

BUILDING_KEYS = ("token", "unified_address_id", "address_line_one")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
CONTROLS_AS_SPACES = bytes(max(byte, 0x20) for byte in range(0x100))


def decode_body(content_type: str, body: bytes, query: str = "") -> dict[str, Any]:
    """Return the body as a dict. It is a form if it is declared as one, else JSON (C5).

    query: of the request's URL. The building's keys are read from it if the body has none of them. A root
    that is not an object becomes {}. Raises BadRequest if the body can't be decoded (C7).
    """
    is_form = media_type(content_type) in FORM_TYPES
    document = decode_form(content_type, body) if is_form else _decode_json(body)
    if query and all(_is_blank(document.get(key)) for key in BUILDING_KEYS):
        with suppress(BadRequest):  # too many parameters: none of them is a key that the client meant
            sent = decode_form(URLENCODED, query.encode("latin-1"))
            document.update((key, sent[key]) for key in BUILDING_KEYS if key in sent)
    return document


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and clean_text(value) is None)


def _decode_json(body: bytes) -> dict[str, Any]:
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.strip():
        return {}
    try:
        document = orjson.loads(body)
        if isinstance(document, dict) and _has_float(document):
            document = _parse_numbers_as_text(body)
    except orjson.JSONDecodeError:
        document = _parse_raw_controls(body)
    return document if isinstance(document, dict) else {}


def _parse_raw_controls(body: bytes) -> Any:
    """Return JSON whose strings may hold raw control characters (C7). Raises BadRequest."""
    try:
        # Each control character becomes one other, so any other error has the place that it has in the body.
        orjson.loads(STRING.sub(lambda string: string[0].translate(CONTROLS_AS_SPACES), body))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"malformed JSON at {_place(body, error.pos)}") from None
    return _parse_numbers_as_text(body)


def _parse_numbers_as_text(body: bytes) -> Any:
    # A number is taken as its text (C8), and the text of the float 1.10 would be 1.1. Python's parser takes
    # more than JSON, so orjson goes first.
    try:
        return json.loads(body.decode(), strict=False, parse_float=str, parse_int=str)
    except RecursionError:
        raise BadRequest("malformed JSON: it is nested too deeply") from None


def _has_float(document: dict[str, Any]) -> bool:
    inner = document.get("tour_request")
    values = [*document.values(), *(inner.values() if isinstance(inner, dict) else ())]
    return any(isinstance(value, float) for value in values)


def _place(body: bytes, position: int) -> str:
    """Return the place of an error for the client. position: in characters."""
    try:
        before = body.decode()[:position]
    except UnicodeDecodeError as not_utf8:
        line = body.count(b"\n", 0, not_utf8.start) + 1
        return f"byte {not_utf8.start + 1}, in line {line}: it is not UTF-8 there"
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"line {line}, column {column}"
