"""Moving a database between the data folder and PostgreSQL: with its secret, and with no mail sent twice."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import ModuleType

from models.audit import Actor
from models.database import NO_DRIVER, missing_database
from models.database_url import masked_database_url
from models.errors import NotFound
from models.installation import Installation, check_secret
from models.outbox.actions import pause_after_move, pause_moved
from models.outbox.claims import put_back
from models.outbox.delivery import SENDING, Delivery, state_is
from models.secret import read_keys, store_keys
from models.settings import Settings
from models.storage import DatabaseUnusable, StorageError
from models.storage.moving import Content, Progress, Source, Target, copy_database
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
    """Copy the data folder's database into an empty PostgreSQL database, and pause the outbox in both.

    From then on only servers with the folder's secret may use the target. An interruption leaves the target
    empty. Raises NotFound, DatabaseUnusable, StorageError and SettingError.
    """
    if missing := missing_database(settings):
        raise NotFound(missing, "no_database")
    keys = read_keys(settings.data_dir, settings.secret)
    places = _Places(str(settings.data_dir), masked_database_url(url), keys is not None)

    def prepare() -> None:
        _prepare(actor, places.source, now)
        Installation.update(secret_check=None).execute()
        if keys is not None:
            check_secret(keys)

    postgres = _postgres()
    with postgres.postgres_target(url) as target, sqlite_source(settings.data_dir) as source:
        return _move(
            source, target, places, prepare, partial(pause_moved, actor, places.target, now), progress
        )


def move_to_folder(
    settings: Settings, folder: Path, actor: Actor, now: datetime, progress: Progress
) -> Moved:
    """Copy the PostgreSQL database of the settings into this folder, and pause the outbox in both.

    The servers' secret becomes the folder's. An interruption leaves no database in the folder. Raises
    DatabaseUnusable, StorageError and SettingError.
    """
    url = settings.database_url
    keys = read_keys(settings.data_dir, settings.secret)
    places = _Places(masked_database_url(url), str(folder), keys is not None)

    def prepare() -> None:
        _prepare(actor, places.source, now)
        Installation.update(secret_check=None).execute()  # no server shares it
        if keys is not None:
            store_keys(folder, keys, now)

    postgres = _postgres()
    with sqlite_target(folder) as target, postgres.postgres_source(url) as source:
        return _move(
            source, target, places, prepare, partial(pause_moved, actor, places.target, now), progress
        )


def _postgres() -> ModuleType:
    try:
        from models.storage.postgres import moving
    except ImportError:
        raise DatabaseUnusable(NO_DRIVER) from None
    return moving


@dataclass(frozen=True, slots=True)
class _Places:
    source: str
    target: str
    has_secret: bool


def _move(
    source: Source,
    target: Target,
    places: _Places,
    prepare: Callable[[], None],
    pause_source: Callable[[], None],
    progress: Progress,
) -> Moved:
    began = time.monotonic()
    tables = copy_database(source, target, progress)
    seconds = time.monotonic() - began
    target.change(prepare)
    target.seal()
    # Before the target can be used: so no interruption leaves two places that mail.
    source.change(pause_source)
    try:
        target.commit()
    except (StorageError, OSError) as error:
        raise DatabaseUnusable(
            f"the last step failed, and may be done or not: {error}; the outbox of {places.source} is "
            "paused. Move again: if the target is not empty then, it was done"
        ) from error
    return Moved(places.source, places.target, tables, seconds, places.has_secret)


def _prepare(actor: Actor, source: str, now: datetime) -> None:
    """Change the copy: nothing leaves until the operator says so, and no delivery is being sent."""
    put_back(Delivery.select(Delivery.id).where(state_is(SENDING)))
    pause_after_move(actor, source, now)
