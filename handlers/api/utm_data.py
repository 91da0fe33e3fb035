"""The field `utm_data`: a query string, or the URL that has it, to an object (C12)."""

import codecs
import re
from urllib.parse import parse_qsl

from handlers.api.text import CONTROL

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# & as HTML has it, escaped once or more: &amp; &#38; &amp;amp;
ESCAPED_AMPERSAND = re.compile(r"&(?:amp;|#0*38;|#x0*26;)+", re.IGNORECASE)


def parse_utm_data(text: str) -> dict[str, str] | None:
    """Return the decoded parameters; None if there are none. Of a repeated key the last counts."""
    text = text.strip()
    if text in ("undefined", "null"):  # what JavaScript makes of a variable without a value
        return None
    if "&" in text:
        text = ESCAPED_AMPERSAND.sub("&", text)
    text = text.partition("#")[0]
    before, mark, behind = text.partition("?")
    if URL.match(text) or (mark and ("=" not in before or before.startswith("/"))):
        text = behind
    pairs = parse_qsl(text, keep_blank_values=True, errors=WINDOWS_1252)
    return {CONTROL.sub("", name): CONTROL.sub("", value) for name, value in pairs} or None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


WINDOWS_1252 = "windows-1252"  # error handler: a byte that is not UTF-8 is a character of Windows-1252
codecs.register_error(WINDOWS_1252, _as_windows_1252)
