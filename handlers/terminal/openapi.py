"""Owns the command `openapi`."""

import argparse
import json

from handlers.api.openapi import document
from handlers.terminal.arguments import Nouns, add_settings
from models.settings import Settings

HELP = "print the API's description as OpenAPI 3.1"


def add_command(nouns: Nouns) -> None:
    """Add it to the commands."""
    command = nouns.add_parser("openapi", help=HELP, description=HELP, allow_abbrev=False)
    add_settings(command, "public_url")
    command.set_defaults(run=_print)


def _print(args: argparse.Namespace, settings: Settings) -> None:
    print(json.dumps(document(settings.public_url or "/"), indent=2))
