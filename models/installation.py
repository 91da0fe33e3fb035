"""The installation: one row, which says that its servers have the same secret, and where its leads are."""

import hashlib
from datetime import datetime
from typing import Any

from peewee import TextField

from models.audit import Actor, record_action
from models.secret import SecretKeys
from models.settings import SettingError
from models.storage import DatabaseUnusable
from models.storage.rows import Row, database, locked

PURPOSE = "installation"


class Installation(Row):
    """The installation that the database belongs to."""

    id = TextField(primary_key=True)
    secret_check = TextField(null=True)  # made with the secret of its servers; null: no server has shared it
    moved_to = TextField(null=True)  # the place that all leads were moved to, without a password


def check_secret(secret: SecretKeys) -> None:
    """Check that this server's secret is that of the others on the database, or note it as the first one.

    With another one a retry that reaches another server would store a second lead. Raises SettingError.
    """
    installation = locked(Installation.select()).get()
    checks = secret_checks(secret, installation.id)
    if installation.secret_check not in (None, *checks):
        raise SettingError(
            "the servers on this database have another secret; set LEADS_SECRET, the same one for each, or "
            "have them take this one by 'secret adopt'"
        )
    if installation.secret_check != checks[0]:
        installation.secret_check = checks[0]
        installation.save()


def adopt_secret(actor: Actor, secret: SecretKeys, now: datetime) -> None:
    """Take this secret for that of the servers on the database, in place of the one that they had."""
    installation = locked(Installation.select()).get()
    installation.secret_check = secret_checks(secret, installation.id)[0]
    installation.save()
    record_action(actor, "secret.adopt", "installation", None, now)


def refuse_moved() -> None:
    """Raise DatabaseUnusable if all leads were moved from this database to another place."""
    installation: Any = Installation.select()
    if database.is_shared:  # while this transaction runs, no move begins; during a move, it waits
        installation = installation.for_update("FOR KEY SHARE")
    if (place := installation.get().moved_to) is not None:
        raise moved_away(place)


def moved_away(place: str) -> DatabaseUnusable:
    """Return the refusal to write to a database that was moved to this place."""
    return DatabaseUnusable(
        f"all leads were moved from here to {place}; use that place. If it has taken no lead since, "
        "'move --undo' makes this place the one to use again"
    )


def secret_checks(secret: SecretKeys, installation_id: str) -> list[str]:
    """Return what `Installation.secret_check` may be with this secret, the newest key's first."""
    return [hashlib.sha256(made).hexdigest() for made in secret.digests(PURPOSE, installation_id.encode())]
