"""MIME: address and text headers, parts, multiparts.

The standard library's EmailMessage is not used. It mis-encodes a local part that is not ASCII, raises on some
text that renters type, and is slow (decision 2).
"""

import re
from base64 import encodebytes
from binascii import b2a_qp
from collections.abc import Iterable, Sequence
from email.header import Header

import idna

from jobs.adapter import one_line
from models.email_address import normal_form

_FOLDED_AT = 70  # characters of a header; Header folds at 76
_LARGE = 200_000  # bytes of a part
_BASE64_RATIO = 1.4  # of base64 with its line ends to what it encodes
NAME_LIMIT = 100  # characters of a name in a header; keeps each line far below the limit of 998 octets


# A local part with dots elsewhere (jane.@docomo.ne.jp) is written as a quoted string: RFC 5321 and 5322.
_DOT_ATOM = re.compile(r"[^.]+(?:\.[^.]+)*")


def mailbox(address: str, *, utf8: bool) -> str | None:
    """Return the address as SMTP takes it, the domain in IDNA; None if it needs SMTPUTF8 and `utf8` is false.

    Raises ValueError if it is not an e-mail address.
    """
    normal = normal_form(address)
    local = normal.rpartition("@")[0]
    if not local.isascii():
        return normal if utf8 else None
    if not _DOT_ATOM.fullmatch(local):
        local = f'"{local}"'
    return f"{local}@{ascii_domain(normal)}"


def ascii_domain(address: str) -> str:
    """Return the domain of an e-mail address, as `mailbox` or `normal_form` returns it, in ASCII."""
    domain = address.rpartition("@")[2]
    return domain if domain.isascii() else idna.encode(domain, uts46=True).decode()


def text_header(name: str, text: str) -> str:
    """Return a header with free text on one line, encoded if need be."""
    is_literal = _is_literal(text)
    if is_literal and len(name) + len(text) < _FOLDED_AT:  # Header, which folds, would take 50 µs
        return f"{name}: {text}"
    charset = "us-ascii" if is_literal else "utf-8"
    return f"{name}: " + Header(text, charset, header_name=name).encode(linesep="\r\n")


def address_header(name: str, display_name: str, address: str) -> str:
    """Return a header with one address, given as `mailbox` returns it. display_name: any text."""
    display_name = one_line(display_name, NAME_LIMIT)
    if not display_name:
        return f"{name}: {address}"
    if _is_literal(display_name):
        escaped = re.sub(r'(["\\])', r"\\\1", display_name)
        return f'{name}: "{escaped}" <{address}>'
    words = Header(display_name, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {words}\r\n <{address}>"  # a line with encoded words may have 76 characters at most


def part(content_type: str, content: bytes, *headers: str) -> bytes:
    """Return a part of a multipart, with CRLF line ends.

    It is quoted-printable; a large one is base64 if that is shorter, as it is for most scripts but Latin.
    """
    text = b"\r\n".join([*content.splitlines(), b""])
    encoding, encoded = "quoted-printable", b2a_qp(text)
    if len(encoded) > _LARGE and len(encoded) > len(text) * _BASE64_RATIO:
        encoding, encoded = "base64", _base64(text)
    lines = [f"Content-Type: {content_type}", f"Content-Transfer-Encoding: {encoding}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + encoded


def attached_text(name: str, content: bytes) -> bytes:
    """Return a part that is a text file in UTF-8. Its type is none that mail filters read as a text."""
    lines = [
        f'Content-Type: application/txt; name="{name}"',
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment; filename="{name}"',
    ]
    text = b"\xef\xbb\xbf" + b"\r\n".join([*content.splitlines(), b""])
    return "\r\n".join([*lines, "", ""]).encode() + _base64(text)


def multipart(subtype: str, unique: str, parts: Sequence[bytes]) -> bytes:
    """Return a multipart of these parts. unique: an id of the mail: letters, digits, '_' and '-'."""
    boundary = f"=_{subtype}_{unique}"  # quoted-printable never contains '=_'
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n\r\n'
    return head.encode() + b"".join(_delimited(boundary.encode(), parts))


def _base64(content: bytes) -> bytes:
    return encodebytes(content).replace(b"\n", b"\r\n")


def _is_literal(text: str) -> bool:
    """Whether a header may contain the text as it is: ASCII that no reader takes for an encoded word."""
    return text.isascii() and "=?" not in text


def _delimited(boundary: bytes, parts: Iterable[bytes]) -> Iterable[bytes]:
    for each in parts:
        yield b"--" + boundary + b"\r\n" + each + b"\r\n"
    yield b"--" + boundary + b"--\r\n"
