"""Owns the command that shows the settings."""

import argparse

from handlers.terminal.arguments import Noun, Nouns
from handlers.terminal.listing import Columns, list_rows
from models.settings import Settings, masked, names

COLUMNS: Columns = {"setting": "name", "value": "value", "from": "origin"}


def add_commands(nouns: Nouns) -> None:
    """Add `config` and its command to the parser."""
    noun = Noun(nouns, "config", "the settings")
    noun.plain_command("show", _show, "show each setting and where it came from, secrets masked")


def _show(args: argparse.Namespace, settings: Settings) -> None:
    rows = [
        {"name": name, "value": masked(name, settings.given[name][0]), "origin": settings.origin(name)}
        for name in names()
    ]
    list_rows(rows, COLUMNS, args.json, "")
