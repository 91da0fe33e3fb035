"""Decoding of HTML forms, in the charsets that browsers know, to one dict."""

import re
from typing import Any

import webencodings
from tornado.escape import parse_qs_bytes
from tornado.httputil import HTTPFile, parse_multipart_form_data

from handlers.errors import BadRequest

URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
FORM_TYPES = (URLENCODED, MULTIPART)
MAX_FIELDS = 1_000  # of an urlencoded form
MAX_BOUNDARY_LENGTH = 70  # RFC 2046; the search for a boundary takes time with its length
CHARSET_FIELD = "_charset_"  # browsers fill it in with the name of the form's charset

PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"([^"]*)"|([^;"]*))')
NAME = re.compile(r"(?P<outer>[^\[\]]+)(?:\[(?P<inner>[^\[\]]*)\](?P<deeper>.*))?", re.DOTALL)
REFERENCE = re.compile("&#([0-9]{3,7});")
# Where Python's codec of this name has fewer characters than browsers'.
WIDER_CODECS = {"gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs"}
# As browsers do: no form is sent in these.
SENT_AS_UTF8 = ("utf-8", "utf-16le", "utf-16be", "replacement")
# Python leaves five bytes of windows-1252 undefined. The WHATWG decodes them as control characters.
WINDOWS_1252 = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}

Fields = dict[str, list[bytes]]  # the names are latin-1: each character is a byte


def decode_form(content_type: str, body: bytes) -> dict[str, Any]:
    """Return a form's fields as a dict: tour_request[slot]=… becomes {"tour_request": {"slot": …}} (C5).

    The last of several values counts. Raises BadRequest.
    """
    parameters = _parameters(content_type)
    if media_type(content_type) == MULTIPART:
        fields, files = _parse_multipart(parameters.get("boundary", ""), body)
    else:
        fields, files = _parse_urlencoded(body), []
    declared_by_form = fields.pop(CHARSET_FIELD, [b""])[-1].decode("latin-1")
    decoder = _Decoder(parameters.get("charset", "").strip("'"), declared_by_form)
    document: dict[str, Any] = {}
    for name in files:
        _put(document, name, [])  # a file is not a string (C8)
    texts = [(decoder.decode_name(name), decoder.decode(values[-1])) for name, values in fields.items()]
    for name, text in texts:
        _put(document, name, _without_references(text) if decoder.is_legacy else text)
    return document


def media_type(content_type: str) -> str:
    """Return the type that a Content-Type declares, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def _parameters(content_type: str) -> dict[str, str]:
    if ";" not in content_type:
        return {}
    found = reversed(PARAMETER.findall(content_type))  # the first of several counts
    return {name.lower(): (quoted or plain).strip() for name, quoted, plain in found}


def _parse_urlencoded(body: bytes) -> Fields:
    try:
        return parse_qs_bytes(body, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadRequest(f"the form has too many fields (maximum is {MAX_FIELDS})") from None


def _parse_multipart(boundary: str, body: bytes) -> tuple[Fields, list[str]]:
    if not boundary:
        raise BadRequest(
            f"the Content-Type {MULTIPART} lacks its boundary: let the library that makes the body set it"
        )
    if len(boundary) > MAX_BOUNDARY_LENGTH:
        raise BadRequest(
            f"the multipart boundary is too long: use one of at most {MAX_BOUNDARY_LENGTH} characters"
        )
    # Tornado reads the names as UTF-8, and raises at any other charset. So it gets each byte as a character.
    is_ascii = body.isascii()
    fields: Fields = {}
    files: dict[str, list[HTTPFile]] = {}
    try:
        parse_multipart_form_data(
            boundary.encode(), body if is_ascii else body.decode("latin-1").encode(), fields, files
        )
    except Exception:  # Tornado itself catches all, around its call of this
        raise BadRequest(f"malformed {MULTIPART} body") from None
    if not is_ascii:
        for values in fields.values():
            values[:] = [value.decode().encode("latin-1") for value in values]
    return fields, list(files)


class _Decoder:
    """Decoder of one form's texts. is_legacy: at least one was in another charset than UTF-8."""

    def __init__(self, *labels: str) -> None:
        """labels: of charsets, by the WHATWG's encoding standard. The first known one counts."""
        known = [encoding for label in labels if (encoding := webencodings.lookup(label)) is not None]
        self._encoding = known[0] if known and known[0].name not in SENT_AS_UTF8 else None
        self.is_legacy = self._encoding is not None

    def decode(self, text: bytes) -> str:
        """Return the text. One that is invalid in the form's charset is decoded as windows-1252."""
        try:
            if self._encoding is None:
                return text.decode()
            name = self._encoding.name
            if name in WIDER_CODECS:
                return text.decode(WIDER_CODECS[name])
            decoded: str = self._encoding.codec_info.decode(text)[0]
            return decoded
        except UnicodeError:
            self.is_legacy = True
            return text.decode("latin-1").translate(WINDOWS_1252)

    def decode_name(self, name: str) -> str:
        """Return the name of a field, each character of which is a byte."""
        if name.isascii():
            return name
        try:
            return self.decode(name.encode("latin-1"))
        except UnicodeEncodeError:  # it is percent-encoded, with a charset of its own
            return name


def _without_references(text: str) -> str:
    # Browsers send &#8217; for a character that the form's charset lacks.
    return REFERENCE.sub(_character, text) if "&#" in text else text


def _character(reference: re.Match[str]) -> str:
    code = int(reference[1])
    is_beyond_ascii = 0x80 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
    return chr(code) if is_beyond_ascii else reference[0]


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    # Deeper nesting and lists become a list, which is not a string (C8).
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
