"""Owns statements that Peewee writes once, and that are from then on only filled in.

For a batch of leads Peewee takes ten times as long to write a statement as SQLite to run it. So each is kept
as text, one for each size that its lists come in, and SQLite keeps its own preparation of it by that text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from peewee import Field, Value

from models.clock import utc_text
from models.storage.rows import JsonField, Row, UtcDateTimeField, database

LARGEST_INSERT = 64  # rows to a statement
Rows = list[tuple[Any, ...]]


class CachedQuery:
    """A query with places left open in it.

    build: writes it with Peewee; it is given a node for each value, and a list of them for each list. A list
    is filled up to the next power of two with its last value, so it may stand where that makes no difference,
    such as behind IN.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build
        self._written: dict[tuple[int, ...], _Statement] = {}

    def run(self, *arguments: object) -> Rows:
        """Run it with these values, and lists of them, in place; answers with all rows.

        Values are as the database has them: no conversion is made but of instants to text.
        """
        statement, values = self._statement(arguments)
        return statement.run(values)

    def text(self, *arguments: object) -> str:
        """The statement that these would be run by."""
        return self._statement(arguments)[0].text

    def _statement(self, arguments: Iterable[object]) -> "tuple[_Statement, list[Any]]":
        values: list[Any] = []
        sizes = []
        for argument in arguments:
            if isinstance(argument, list | tuple | set | frozenset):
                filled = _filled_up(argument)
                values += filled
                sizes.append(len(filled))
            else:
                values.append(utc_text(argument) if isinstance(argument, datetime) else argument)
                sizes.append(-1)
        key = tuple(sizes)
        statement = self._written.get(key)
        if statement is None:
            statement = self._written[key] = _write(self._build, key)
        return statement, values


class CachedSelect:
    """A SELECT of whole rows of one table, and perhaps of one that is joined to it, as their classes.

    where: adds to the select what it is to be narrowed by.
    """

    def __init__(self, model: type[Row], where: Callable[..., Any], joined: type[Row] | None = None) -> None:
        self._parts = [(part, part._meta.sorted_fields) for part in (model, joined) if part is not None]
        columns = [field for _, fields in self._parts for field in fields]
        select = model.select(*columns) if joined is None else model.select(*columns).join(joined)
        self._prepared = CachedQuery(lambda *arguments: where(select, *arguments))

    def run(self, *arguments: object) -> list[list[Any]]:
        """For each row what it is of each of the tables."""
        return [list(self._of_row(row)) for row in self._prepared.run(*arguments)]

    def _of_row(self, row: tuple[Any, ...]) -> Iterator[Row]:
        values = iter(row)
        for model, fields in self._parts:
            yield model(**{field.name: field.python_value(value) for field, value in zip(fields, values)})


class CachedInsert:
    """INSERT into these columns, of all those without a default, of one table, many rows at a time."""

    def __init__(self, model: type[Row], *fields: Field, returning: Sequence[Field] = ()) -> None:
        self._model = model
        self._fields = fields
        self._returning = returning
        self._conversions = [
            (position, field.db_value)
            for position, field in enumerate(fields)
            if isinstance(field, UtcDateTimeField | JsonField)
        ]
        self._written: dict[int, _Statement] = {}

    def run(self, rows: Sequence[tuple[Any, ...]]) -> Rows:
        """Insert these rows; answers with what was to be returned of each, in no promised order."""
        answers: Rows = []
        done = 0
        while done < len(rows):
            # In sizes that are powers of two there are few statements to keep.
            size = min(LARGEST_INSERT, 1 << ((len(rows) - done).bit_length() - 1))
            answers += self._insert(rows[done : done + size])
            done += size
        return answers

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
    """The text of a query, and where its values go."""

    def __init__(self, text: str, parameters: Sequence[Any]) -> None:
        self.text = text
        self._parameters = list(parameters)
        self._places = [(at, p.number) for at, p in enumerate(parameters) if isinstance(p, Placeholder)]
        self._in_order = [number for _, number in self._places] == list(range(len(parameters)))

    def run(self, values: list[Any]) -> Rows:
        if not self._in_order:
            filled = self._parameters.copy()
            for at, number in self._places:
                filled[at] = values[number]
            values = filled
        # Not by Peewee's execute_sql, which takes longer than a small statement; its errors are apsw's own.
        rows: Rows = database.connection().execute(self.text, values).fetchall()
        return rows


class Placeholder:
    """Stands for a value while Peewee writes."""

    def __init__(self, number: int) -> None:
        self.number = number


def _write(build: Callable[..., Any], sizes: Iterable[int]) -> _Statement:
    count = 0
    arguments: list[Any] = []
    for size in sizes:
        # Nodes that Peewee passes on as they are, whatever the column.
        places = [Value(Placeholder(count + n), converter=False, unpack=False) for n in range(abs(size))]
        arguments.append(places[0] if size == -1 else places)
        count += abs(size)
    return _Statement(*build(*arguments).sql())


def _filled_up(values: Iterable[Any]) -> list[Any]:
    filled = list(values)
    if filled:
        filled += filled[-1:] * ((1 << (len(filled) - 1).bit_length()) - len(filled))
    return filled
