"""Preferences of a request: its Prefer headers (RFC 7240)."""

import re

DRY_RUN = "dry-run"  # judge the request, and store nothing (C33)
MAX_LENGTH = 1_000  # characters of the header that are read

_PREFERENCE = re.compile(r'\s*([\w-]+)\s*(?:=\s*"?([\w.-]*)"?)?\s*')


def parse_preferences(text: str) -> dict[str, str]:
    """Return the preferences by name: code=503, cut → {"code": "503", "cut": ""}."""
    matches = [_PREFERENCE.match(part) for part in text[:MAX_LENGTH].split(",")]
    return {match[1].lower(): match[2] or "" for match in matches if match}
