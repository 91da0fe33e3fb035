"""The commands about the installation's secret."""

from collections.abc import Iterator
from contextlib import contextmanager

from handlers.terminal.arguments import CommandContext, DatabaseContext, Noun, Nouns
from handlers.terminal.output import print_result
from models.clock import utc_text
from models.database import command_storage, missing_database
from models.errors import Conflict, NotFound
from models.installation import adopt_secret, check_secret
from models.secret import FILE_NAME as SECRET_FILE
from models.secret import VERIFIES_FOR, read_keys, rotate_secret, setting_of
from models.settings import Settings

HOURS = VERIFIES_FOR.total_seconds() / 3600


def add_commands(nouns: Nouns) -> None:
    """Add `secret` and its commands to the parser."""
    noun = Noun(nouns, "secret", "manage the installation's secret")
    noun.plain_command(
        "rotate",
        _rotate,
        "replace the installation's secret by a new one",
        *("data_dir", "database_url", "secret"),
    )
    noun.command("adopt", _adopt, "have all servers on the PostgreSQL take this secret, in place of another")
    noun.plain_command(
        "show", _show, "print the secret of the data folder as LEADS_SECRET takes it", "data_dir", "secret"
    )


def _show(context: CommandContext) -> None:
    data_dir = context.settings.data_dir
    if context.settings.secret:
        raise Conflict(f"the secret is set by {context.settings.origin('secret')}, and stands there")
    keys = read_keys(data_dir)
    if keys is None:
        raise NotFound(f"there is no {SECRET_FILE} in {data_dir}", "no_database")
    print_result({"secret": setting_of(keys)}, context.args.json, setting_of(keys))


def _adopt(context: DatabaseContext) -> None:
    settings, now = context.settings, context.clock.now()
    if not settings.database_url:
        raise Conflict("this is for servers that share a PostgreSQL; LEADS_DATABASE_URL is not set")
    keys = read_keys(settings.data_dir, settings.secret)
    if keys is None:
        raise NotFound(f"LEADS_SECRET is not set, and there is no {SECRET_FILE} in {settings.data_dir}")
    context.storage.write(adopt_secret, context.actor, keys, now)
    print_result(
        {"adopted_at": utc_text(now)},
        context.args.json,
        "The servers on this database are to have this secret. Start each of them again with it.",
        "Retries of what was sent before now make new leads, and the URLs of earlier thank-you pages end.",
    )


def _rotate(context: CommandContext) -> None:
    data_dir, now = context.settings.data_dir, context.clock.now()
    if context.settings.secret:
        everywhere = ", on each server" if context.settings.database_url else ""
        raise Conflict(
            f"the secret is set by {context.settings.origin('secret')}: write the new one there before the "
            f"old one, with a comma between{everywhere}; after {HOURS:.0f} hours remove the old one"
        )
    if missing := missing_database(context.settings):
        raise NotFound(missing, "no_database")
    if not (data_dir / SECRET_FILE).exists():
        raise NotFound(
            f"there is no {SECRET_FILE} in {data_dir}: the first start of the server makes it, unless its "
            "secret is set by LEADS_SECRET"
        )
    with _noted_in_database(context.settings):
        path = rotate_secret(data_dir, now)
    print_result(
        {"file": str(path), "rotated_at": utc_text(now)},
        context.args.json,
        f"The installation has a new secret, in {path}. A running server uses it from now on.",
        f"For {HOURS:.0f} hours what the earlier one made stays valid: retries of forms, thank-you pages.",
    )


@contextmanager
def _noted_in_database(settings: Settings) -> Iterator[None]:
    """Note the folder's secret in the PostgreSQL, if one is set, before the block changes it, and after."""
    if not settings.database_url:
        yield
        return
    with command_storage(settings) as storage:
        if keys := read_keys(settings.data_dir):
            storage.write(check_secret, keys)
        yield
        if keys := read_keys(settings.data_dir):
            storage.write(check_secret, keys)
