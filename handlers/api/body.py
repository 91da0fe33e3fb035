"""Decoding of bodies: JSON or an HTML form to one dict."""

import json
import re
from typing import Any

import orjson
from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

from handlers.errors import BadRequest

FORM_TYPES = URLENCODED, _ = ("application/x-www-form-urlencoded", "multipart/form-data")
NAME = re.compile(r"(?P<outer>[^\[\]]+)(?:\[(?P<inner>[^\[\]]*)\](?P<deeper>.*))?", re.DOTALL)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode_body(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the body as a dict. It is a form if it is declared as one, else JSON (C5).

    A root that is not an object becomes {}. Raises BadRequest if the body can't be decoded (C7).
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if media_type in FORM_TYPES:
        return _decode_form(f"{media_type};{parameters}", body)
    return _decode_json(body)


def _decode_json(body: bytes) -> dict[str, Any]:
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.strip():
        return {}
    try:
        document = orjson.loads(body)
        if isinstance(document, dict) and _has_float(document):
            # A number is taken as its text (C8), and the text of the float 1.10 would be 1.1.
            document = json.loads(body, parse_float=str, parse_int=str)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"malformed JSON at {_place(body, error)}") from None
    except RecursionError:
        raise BadRequest("malformed JSON: it is nested too deeply") from None
    return document if isinstance(document, dict) else {}


def _has_float(document: dict[str, Any]) -> bool:
    inner = document.get("tour_request")
    values = [*document.values(), *(inner.values() if isinstance(inner, dict) else ())]
    return any(isinstance(value, float) for value in values)


def _place(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as not_utf8:
        line = body.count(b"\n", 0, not_utf8.start) + 1
        return f"byte {not_utf8.start + 1}, in line {line}: it is not UTF-8 there"
    return f"line {error.lineno}, column {error.colno}"


def _decode_form(content_type: str, body: bytes) -> dict[str, Any]:
    arguments: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    try:
        parse_body_arguments(content_type, body, arguments, files)
    except HTTPInputError:
        raise BadRequest(f"malformed {content_type.partition(';')[0]} body") from None
    document: dict[str, Any] = {}
    for name in files:
        _put(document, name, [])  # a file is not a string (C8)
    for name, values in arguments.items():
        try:
            _put(document, name, values[-1].decode())
        except UnicodeDecodeError as error:
            raise BadRequest(f"malformed form: a value is not UTF-8 at its byte {error.start + 1}") from None
    return document


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    # tour_request[slot]=… becomes {"tour_request": {"slot": …}}. Deeper nesting and lists become a list,
    # which is not a string (C8).
    match = NAME.fullmatch(name)
    if match is None:
        return
    outer, inner = match["outer"], match["inner"]
    if inner is None:
        document[outer] = value
    elif not inner:
        document[outer] = [value]
    else:
        if not isinstance(document.get(outer), dict):
            document[outer] = {}
        document[outer][inner] = [value] if match["deeper"] else value
