"""Who sent a form: a browser by itself, without a script (a form navigation, C27), or a program."""

from collections.abc import Mapping

from handlers.api.form import FORM_TYPES, URLENCODED, media_type

MAX_ACCEPT_LENGTH = 1_000  # characters of the header that are read
FRAMES = ("iframe", "frame", "embed", "object", "fencedframe")


def is_form_navigation(method: str, headers: Mapping[str, str]) -> bool:
    """Return True for the POST of a form that a browser follows to its answer.

    A browser without fetch metadata is told by its Origin, and by accepting HTML but not JSON. Some programs
    accept HTML by default, but they send no Origin.
    """
    if method != "POST" or media_type(headers.get("Content-Type", "")) not in FORM_TYPES:
        return False
    mode = headers.get("Sec-Fetch-Mode")
    if mode is not None:
        return mode == "navigate"
    accepted = headers.get("Accept", "")[:MAX_ACCEPT_LENGTH].split(",")
    ranges = [part.partition(";")[0].strip().lower() for part in accepted]
    return bool(headers.get("Origin")) and "text/html" in ranges and "application/json" not in ranges


def is_unattended(headers: Mapping[str, str]) -> bool:
    """Return True if no person pressed the button of a form navigation, or the form stood in a frame.

    WebKit (Safari, and every browser of iOS) has fetch metadata without Sec-Fetch-User. There a navigation of
    the whole page counts as a person's: the visitor sees it.
    """
    if headers.get("Sec-Fetch-Dest") in FRAMES:
        return True
    user_agent = headers.get("User-Agent", "")
    is_webkit = "AppleWebKit/" in user_agent and "Chrome/" not in user_agent
    if is_webkit and headers.get("Sec-Fetch-Dest") == "document":
        return False
    return "Sec-Fetch-Mode" in headers and headers.get("Sec-Fetch-User") != "?1"


def is_program_form(headers: Mapping[str, str]) -> bool:
    """Return True for a program's urlencoded form: a browser would send an origin or fetch metadata."""
    return (
        media_type(headers.get("Content-Type", "")) == URLENCODED
        and not headers.get("Origin")
        and not any(name.startswith("Sec-Fetch-") for name in headers)
    )
