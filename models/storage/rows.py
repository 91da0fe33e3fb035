"""What every table's class is made from: the base of rows, and the types of columns."""

from datetime import datetime
from typing import Any

import orjson
from peewee import DatabaseProxy, Field, Model, TextField

from models.clock import utc_text_or_none

# The storage package that is opened puts its database behind it. Besides what Peewee has, that database has
# `is_storage_failure(error)`: True if storage failed, and False if a row holds what it should not.
database = DatabaseProxy()


class Row(Model):
    """Base of every table's class."""

    class Meta:
        database = database
        legacy_table_names = False  # building_token, not buildingtoken


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
