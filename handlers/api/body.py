"""Owns the decoding of bodies: JSON or an HTML form in, one dict out."""

import json
import re
from typing import Any

import orjson
from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

from handlers.errors import BadRequest

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
NAME = re.compile(r"(?P<outer>[^\[\]]+)(?:\[(?P<inner>[^\[\]]*)\](?P<deeper>.*))?", re.DOTALL)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode_body(content_type: str, body: bytes) -> dict[str, Any]:
    """The body as a dict, by its declared type: a form, or else JSON (C5).

    A root that is not an object is {}. Raises BadRequest for what can't be decoded (C7).
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
            # A number is taken as its text, and 1.10 has another text than the float 1.1.
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
    except UnicodeDecodeError as fault:
        line = body.count(b"\n", 0, fault.start) + 1
        return f"byte {fault.start + 1}, in line {line}: it is not UTF-8 there"
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
        _put(document, name, [])  # a file is no string
    for name, values in arguments.items():
        try:
            _put(document, name, values[-1].decode())
        except UnicodeDecodeError as fault:
            raise BadRequest(f"malformed form: a value is not UTF-8 at its byte {fault.start + 1}") from None
    return document


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    # tour_request[slot]=… is {"tour_request": {"slot": …}}; anything deeper, or a list, is no string.
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
