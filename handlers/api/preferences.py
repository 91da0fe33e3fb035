"""Preferences of a request: its Prefer headers (RFC 7240)."""

import re

DRY_RUN = "dry-run"  # judge the request, and store nothing (C33)

_PREFERENCE = re.compile(r'\s*([\w-]+)\s*(?:=\s*"?([\w.-]*)"?)?\s*')


def parse_preferences(text: str) -> dict[str, str]:
    """Return the preferences by name: code=503, cut → {"code": "503", "cut": ""}."""
    matches = [_PREFERENCE.match(part) for part in text.split(",")]
    return {match[1].lower(): match[2] or "" for match in matches if match}
