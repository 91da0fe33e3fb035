"""Web origins: the scheme, host and port of a page, as a browser writes them."""

import ipaddress
import re
from urllib.parse import urlsplit

import idna

from models.shown_text import cut

MAX_ORIGIN_LENGTH = 260  # characters: https://, a host of 253 as DNS allows, almost any port
MAX_QUOTED_LENGTH = 500  # characters of a URL in an error

HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def origin_of(url: str) -> str:
    """Return the origin of an http(s) URL as a browser writes it: lower case, IDNA, no default port, no path.

    Raises ValueError, saying what is wrong, if it isn't one.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        reason = cut(str(error), MAX_QUOTED_LENGTH)
        raise ValueError(f"{cut(url, MAX_QUOTED_LENGTH)!r} is not a URL: {reason}") from None
    if len(host) > MAX_ORIGIN_LENGTH:
        host = ""
    try:
        host = idna.encode(host, uts46=True).decode() if not host.isascii() else host
        if ":" in host or host.rpartition(".")[2].isdigit():
            address = ipaddress.ip_address(host)
            host = f"[{address}]" if address.version == 6 else str(address)
        elif not HOST_NAME.fullmatch(host):
            raise ValueError
    except ValueError:  # an IDNAError is one
        host = ""
    default = {"http": 80, "https": 443}.get(parts.scheme)
    origin = f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")
    if default is None or not host or "@" in parts.netloc or len(origin) > MAX_ORIGIN_LENGTH:
        shown = cut(url, MAX_QUOTED_LENGTH)
        raise ValueError(f"{shown!r} is not a website's URL; write it like https://www.example.com")
    return origin


def page_origin(url: str) -> str | None:
    """Return the origin of a page's URL as `origin_of` does; None if it has none."""
    try:
        return origin_of(url)
    except ValueError:
        return None


def is_origin(text: str) -> bool:
    """Return True if the text is an origin, and nothing more, as a browser writes it."""
    return page_origin(text) == text
