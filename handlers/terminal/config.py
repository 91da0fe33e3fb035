"""The command that shows the settings."""

from handlers.terminal.arguments import CommandContext, Noun, Nouns
from handlers.terminal.output import Columns, list_rows, note
from models.settings import masked, setting_names

COLUMNS: Columns = {"setting": "name", "value": "value", "from": "origin"}


def add_commands(nouns: Nouns) -> None:
    """Add `config` and its command to the parser."""
    noun = Noun(nouns, "config", "show the settings")
    noun.plain_command("show", _show, "show each setting and its origin, secrets masked")


def _show(context: CommandContext) -> None:
    settings = context.settings
    rows = [
        {"name": name, "value": masked(name, settings.given[name][0]), "origin": settings.origin(name)}
        for name in setting_names()
    ]
    list_rows(rows, COLUMNS, context.args.json, "")
    if settings.smtp_url is not None and settings.sender_fault is not None:
        note(f"warning: {settings.sender_fault}: mail waits in the outbox")
