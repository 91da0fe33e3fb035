"""Moving a database between the data folder and PostgreSQL: with its secret, and with no mail sent twice."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import ModuleType

from models.audit import Actor, record_action
from models.database import NO_DRIVER, missing_database
from models.database_url import masked_database_url
from models.errors import Conflict, NotFound
from models.installation import Installation, check_secret, moved_away, secret_checks
from models.outbox.actions import pause_after_move, pause_moved
from models.outbox.claims import put_back
from models.outbox.delivery import SENDING, Delivery, state_is
from models.secret import SecretKeys, read_keys, store_keys
from models.settings import SettingError, Settings
from models.storage import DatabaseUnusable, StorageError
from models.storage.moving import Content, Progress, Source, Target, copy_database
from models.storage.rows import locked
from models.storage.sqlite.moving import sqlite_source, sqlite_target


@dataclass(frozen=True, slots=True)
class Moved:
    """A finished move. source, target: a folder, or a URL without its password. seconds: that it took.

    has_secret: whether the installation's secret was found.
    """

    source: str
    target: str
    tables: Mapping[str, Content]
    seconds: float
    has_secret: bool

    @property
    def rows(self) -> int:
        """The number of rows in all tables."""
        return sum(content.rows for content in self.tables.values())


def move_to_postgres(settings: Settings, url: str, actor: Actor, now: datetime, progress: Progress) -> Moved:
    """Copy the data folder's database into an empty PostgreSQL database, and give up the source.

    The outbox is paused in both. From then on only servers with the folder's secret may use the target. An
    interruption leaves the target empty. Raises NotFound, DatabaseUnusable, StorageError and SettingError.
    """
    if missing := missing_database(settings):
        raise NotFound(missing, "no_database")
    keys = read_keys(settings.data_dir, settings.secret)

    def keep_secret() -> None:
        if keys is not None:
            check_secret(keys)

    move = _Move(_named(settings.data_dir), masked_database_url(url), keys, keep_secret, actor, now, progress)
    with _postgres().postgres_target(url) as target, sqlite_source(settings.data_dir) as source:
        return move.run(source, target)


def move_to_folder(
    settings: Settings, folder: Path, actor: Actor, now: datetime, progress: Progress
) -> Moved:
    """Copy the PostgreSQL database of the settings into this folder, and give up the source.

    The outbox is paused in both. The servers' secret becomes the folder's. An interruption leaves no database
    in the folder. Raises DatabaseUnusable, StorageError and SettingError.
    """
    url = settings.database_url
    keys = read_keys(settings.data_dir, settings.secret)

    def keep_secret() -> None:
        if keys is not None:
            store_keys(folder, keys, now)

    move = _Move(masked_database_url(url), _named(folder), keys, keep_secret, actor, now, progress)
    with sqlite_target(folder) as target, _postgres().postgres_source(url) as source:
        return move.run(source, target)


def undo_move(actor: Actor, now: datetime) -> str:
    """Make this database the one to use again; its outbox stays paused. Return where it was moved to.

    Raises Conflict if it was not moved.
    """
    installation = locked(Installation.select()).get()
    place = installation.moved_to
    if place is None:
        raise Conflict("there is no move to undo: the leads were not moved from here")
    installation.moved_to = None
    installation.save()
    record_action(actor, "database.undo_move", "database", None, now)
    return str(place)


def _named(folder: Path) -> str:
    return str(folder.absolute())  # it is read later, in any working directory


def _postgres() -> ModuleType:
    try:
        from models.storage.postgres import moving
    except ImportError:
        raise DatabaseUnusable(NO_DRIVER) from None
    return moving


@dataclass(frozen=True, slots=True)
class _Move:
    """A move to be made. source, target: as of `Moved`. keys: the installation's, if they were found.

    keep_secret: gives them to the target, whose rows are open.
    """

    source: str
    target: str
    keys: SecretKeys | None
    keep_secret: Callable[[], None]
    actor: Actor
    now: datetime
    progress: Progress

    def run(self, source: Source, target: Target) -> Moved:
        self._check(source)
        began = time.monotonic()
        tables = copy_database(source, target, self.progress)
        seconds = time.monotonic() - began
        target.change(self._prepare)
        target.seal()
        # Before the target can be used: so no interruption leaves two places that take leads, or mail.
        source.change(self._leave)
        try:
            target.commit()
        except (StorageError, OSError, KeyboardInterrupt) as error:
            raise DatabaseUnusable(
                f"the last step failed, and may be done or not: {str(error) or 'interrupted'}; "
                f"the outbox of {self.source} is paused. Move again: if the target is not empty then, it was "
                "done"
            ) from error
        return Moved(self.source, self.target, tables, seconds, self.keys is not None)

    def _check(self, source: Source) -> None:
        columns = ["id", "secret_check", "moved_to"]
        [(installation, noted, moved_to)] = chain.from_iterable(
            source.read("installation", columns, columns[:1])
        )
        if moved_to not in (None, self.target):  # to the same target it may not have come to its end
            raise moved_away(str(moved_to))
        if noted is not None and (
            self.keys is None or noted not in secret_checks(self.keys, str(installation))
        ):
            found = "is another one" if self.keys else "was not found"
            raise SettingError(
                f"the secret {found}: set LEADS_SECRET to that of the servers on {self.source}, and move "
                "again; without it a retry of a lead would make a second one"
            )

    def _prepare(self) -> None:
        """Change the copy: nothing leaves until the operator says so, and no delivery is being sent."""
        put_back(Delivery.select(Delivery.id).where(state_is(SENDING)))
        pause_after_move(self.actor, self.source, self.now)
        Installation.update(secret_check=None, moved_to=None).execute()
        self.keep_secret()

    def _leave(self) -> None:
        """Give up the source: no server or command writes to it any more, and nothing leaves."""
        pause_moved(self.actor, self.target, self.now)
        Installation.update(moved_to=self.target).execute()
