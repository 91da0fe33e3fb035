"""Cached queries: Peewee writes the SQL once, and later runs only fill in the values.

For a batch of leads Peewee takes ten times as long to write a statement as SQLite to run it. So the text of
each statement is kept, one for each size of its lists. The driver caches the prepared statement by that text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from peewee import Field, Value

from models.clock import utc_text
from models.storage.rows import JsonField, Row, UtcDateTimeField, database, when_opened

LARGEST_INSERT = 64  # rows to a statement
Rows = list[tuple[Any, ...]]


class CachedQuery:
    """A query with placeholders for its values.

    build: writes the query with Peewee; its arguments are a node for each value, and a list of nodes for each
    list. A list is padded with its last value to the next power of two, so it may stand only where duplicates
    make no difference, such as after IN.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build
        self._written: dict[tuple[int, ...], _Statement] = {}
        when_opened(lambda _: self._written.clear())  # each database has its own text

    def run(self, *arguments: object) -> Rows:
        """Run the query with these values and lists of values, and return all rows.

        Values are passed as the database stores them; only instants are converted, to text.
        """
        statement, values = self._statement(arguments)
        return statement.run(values)

    def text(self, *arguments: object) -> str:
        """Return the SQL statement for these arguments."""
        return self._statement(arguments)[0].text

    def _statement(self, arguments: Iterable[object]) -> "tuple[_Statement, list[Any]]":
        values: list[Any] = []
        sizes: list[int] = []
        for argument in arguments:
            if isinstance(argument, list | tuple | set | frozenset):
                padded = _padded(argument)
                values += padded
                sizes.append(len(padded))
            else:
                values.append(utc_text(argument) if isinstance(argument, datetime) else argument)
                sizes.append(-1)
        key = tuple(sizes)
        statement = self._written.get(key)
        if statement is None:
            statement = self._written[key] = _write(self._build, sizes)
        return statement, values


class CachedSelect:
    """A SELECT of whole rows of one table, and of a joined one if given, as instances of their classes.

    where: adds the conditions to the select.
    """

    def __init__(self, model: type[Row], where: Callable[..., Any], joined: type[Row] | None = None) -> None:
        self._parts = [(part, part._meta.sorted_fields) for part in (model, joined) if part is not None]
        columns = [field for _, fields in self._parts for field in fields]
        select = model.select(*columns) if joined is None else model.select(*columns).join(joined)
        self._query = CachedQuery(lambda *arguments: where(select, *arguments))

    def run(self, *arguments: object) -> list[list[Any]]:
        """Return the rows, each as a list with an instance for each table."""
        return [list(self._of_row(row)) for row in self._query.run(*arguments)]

    def _of_row(self, row: tuple[Any, ...]) -> Iterator[Row]:
        values = iter(row)
        for model, fields in self._parts:
            yield model(**{field.name: field.python_value(value) for field, value in zip(fields, values)})


class CachedInsert:
    """An INSERT of many rows into one table. fields: at least those without a default."""

    def __init__(self, model: type[Row], *fields: Field, returning: Sequence[Field] = ()) -> None:
        self._model = model
        self._fields = fields
        self._returning = returning
        self._conversions = [
            (position, field.db_value)
            for position, field in enumerate(fields)
            if isinstance(field, UtcDateTimeField | JsonField)
        ]
        self._written: dict[int, _Statement] = {}  # by the number of rows
        when_opened(lambda _: self._written.clear())  # each database has its own text

    def run(self, rows: Sequence[tuple[Any, ...]]) -> Rows:
        """Insert rows, and return the `returning` fields of each, in no particular order."""
        returned: Rows = []
        done = 0
        while done < len(rows):
            # Sizes that are powers of two need few statements.
            size = min(LARGEST_INSERT, 1 << ((len(rows) - done).bit_length() - 1))
            returned += self._insert(rows[done : done + size])
            done += size
        return returned

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> Rows:
        width = len(self._fields)
        values = [value for row in rows for value in row]
        for position, convert in self._conversions:
            values[position::width] = map(convert, values[position::width])
        statement = self._written.get(len(rows))
        if statement is None:
            statement = self._written[len(rows)] = _write(self._build, (len(rows) * width,))
        return statement.run(values)

    def _build(self, places: list[Any]) -> Any:
        width = len(self._fields)
        rows = [places[start : start + width] for start in range(0, len(places), width)]
        query = self._model.insert_many(rows, fields=self._fields)
        return query.returning(*self._returning) if self._returning else query


class _Statement:
    """The text of a query, and the positions of its values."""

    def __init__(self, text: str, parameters: Sequence[Any]) -> None:
        self.text: str = database.native(text)
        self._run: Callable[[str, Sequence[Any]], Rows] = database.run  # without the proxy, which is slow
        self._parameters = list(parameters)
        self._places = [(at, p.number) for at, p in enumerate(parameters) if isinstance(p, Placeholder)]
        self._in_order = [number for _, number in self._places] == list(range(len(parameters)))

    def run(self, values: list[Any]) -> Rows:
        if not self._in_order:
            filled = self._parameters.copy()
            for at, number in self._places:
                filled[at] = values[number]
            values = filled
        # Peewee's execute_sql takes longer than a small statement does. Errors here are the driver's own.
        return self._run(self.text, values)


class Placeholder:
    """A stand-in for a value while Peewee writes the SQL."""

    def __init__(self, number: int) -> None:
        self.number = number


def _write(build: Callable[..., Any], sizes: Iterable[int]) -> _Statement:
    count = 0
    arguments: list[Any] = []
    for size in sizes:
        # Nodes that Peewee passes on unchanged, whatever the column.
        places = [Value(Placeholder(count + n), converter=False, unpack=False) for n in range(abs(size))]
        arguments.append(places[0] if size == -1 else places)
        count += abs(size)
    return _Statement(*build(*arguments).sql())


def _padded(values: Iterable[Any]) -> list[Any]:
    padded = list(values)
    if padded:
        padded += padded[-1:] * ((1 << (len(padded) - 1).bit_length()) - len(padded))
    return padded
