"""What every table's class is made from: the base of rows, the types of columns, and locks on rows and names.

The locks are for a database that several servers share. SQLite has one writer at a time, and needs none.
"""

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import orjson
from peewee import DatabaseProxy, Field, Model, TextField

from models.clock import utc_text_or_none

# The storage package that is opened puts its database behind it. Besides what Peewee has, that database has
# `is_storage_failure(error)`: True if storage failed, and False if a row holds what it should not;
# `native(statement)`: Peewee's SQL as `run` takes it;
# `run(statement, values)`: all rows of a statement, without what Peewee does to them;
# `is_shared`: True if several servers may write to it; and then `lock(keys)` and `try_lock(key)`.
database = DatabaseProxy()
_is_shared = False  # as the database says: a look through the proxy takes longer than all that follows


def when_opened(callback: Callable[[Any], None]) -> None:
    """Call back with the database each time one is put behind the proxy."""
    database.attach_callback(callback)  # type: ignore[no-untyped-call]


def _note_database(opened: Any) -> None:
    global _is_shared
    _is_shared = opened.is_shared


when_opened(_note_database)


class Row(Model):
    """Base of every table's class."""

    class Meta:
        database = database
        legacy_table_names = False  # building_token, not buildingtoken


def locked(query: Any, *, skip: bool = False, of: Any = None) -> Any:
    """Return the select with its rows locked until the transaction ends, as another server may change them.

    skip: leave out rows that another transaction has locked. of: the table to lock, of several joined ones.
    """
    if not _is_shared:
        return query
    # NO KEY: rows that refer to these, such as a new lead to its building, may be stored meanwhile.
    return query.for_update("FOR NO KEY UPDATE", of=of, skip_locked=skip or None)


def lock_names(purpose: str, names: Iterable[str | bytes]) -> None:
    """Wait until no other transaction holds these names, and hold them until this one ends.

    For rows that may not exist yet. purpose: keeps apart what is named.
    """
    if _is_shared:
        database.lock(sorted({_lock_key(purpose, name) for name in names}))


def is_exclusive(name: str) -> bool:
    """Return True if this transaction alone does what is named; else another server is at it."""
    return not _is_shared or database.try_lock(_lock_key("exclusive", name))


def _lock_key(purpose: str, name: str | bytes) -> int:
    text = name if isinstance(name, bytes) else name.encode()
    digest = hashlib.blake2b(text, key=purpose.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class UtcDateTimeField(Field):
    """An aware instant, stored as UTC text of one fixed width, so that text order is time order."""

    field_type = "TEXT"

    def db_value(self, value: datetime | None) -> str | None:
        return utc_text_or_none(value)

    def python_value(self, value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class JsonField(TextField):
    """A JSON value in a text column."""

    def db_value(self, value: Any) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def python_value(self, value: str | None) -> Any:
        return None if value is None else orjson.loads(value)
