"""Texts that clients send, without control characters (C16)."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CONTROL_IN_MESSAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # line breaks and tabs may stay


def clean_text(text: str, keep_lines: bool = False) -> str | None:
    """Return the text without control characters; None if only white space is left.

    keep_lines: keep tabs and line breaks, each as one line feed.
    """
    if not text.isprintable():  # a quick test, as the regular expression is slow
        if keep_lines:
            text = CONTROL_IN_MESSAGE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        else:
            text = CONTROL.sub("", text)
    return text if text and not text.isspace() else None
