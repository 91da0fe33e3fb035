"""The command `openapi`."""

import json

from handlers.api.openapi import document
from handlers.terminal.arguments import CommandContext, Nouns, add_settings

HELP = "print the OpenAPI 3.1 description of the API"


def add_command(nouns: Nouns) -> None:
    """Add `openapi` to the parser."""
    command = nouns.add_parser("openapi", help=HELP, description=HELP, allow_abbrev=False)
    add_settings(command, "public_url")
    command.set_defaults(run=_print)


def _print(context: CommandContext) -> None:
    print(json.dumps(document(context.settings.public_url or "/"), indent=2))
