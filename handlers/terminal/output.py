"""The output of commands: aligned tables and records for people, JSON lines for programs.

Renters' texts reach the operator's terminal here, so what is not visible is replaced or escaped.
"""

import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from models.shown_text import escaped, is_visible, printable

Row = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Row], object]]  # heading: a key, dotted if nested, or a function

NOTHING = "-"
WIDEST_CELL = 40  # columns on a terminal, so that one long cell leaves room for the others
GAP = "  "


def prepare_output() -> None:
    """Let stdout and stderr escape what they can't encode, and discard output to a closed one (2>&-)."""
    while (
        spare := os.open(os.devnull, os.O_RDWR)
    ) <= 2:  # else a later file would take a closed one's number
        pass
    os.close(spare)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_line(record: Row) -> bytes:
    """Return the record as one line of JSON, in UTF-8, safe to show on a terminal."""
    try:
        text = orjson.dumps(record).decode()
    except (
        orjson.JSONEncodeError
    ):  # it has a text of the system that is not UTF-8, such as the name of a file
        text = json.dumps(record)
    return escaped(text).encode() + b"\n"


def say(*lines: str) -> None:
    """Print these lines for people."""
    for line in lines:
        print(printable(line))


def note(line: str) -> None:
    """Print one line on stderr: an error, a warning, a hint."""
    print(printable(line), file=sys.stderr)


def progress(step: str) -> None:
    """Print the current step on stderr if that is a terminal."""
    if sys.stderr.isatty():
        note(f"{step} ...")


def print_result(record: Row, as_json: bool, *lines: str) -> None:
    """Print the result of a command: the record as JSON for programs, or the lines for people."""
    if as_json:
        sys.stdout.buffer.write(json_line(record))
    else:
        say(*lines)


def list_rows(
    rows: Iterable[Row], columns: Columns, as_json: bool, if_none: str, limit: int | None = None
) -> None:
    """Print rows as JSON lines, or as a table for people.

    if_none: printed in place of an empty table. limit: with as many rows, a note says that there may be more.
    """
    if as_json:
        for row in rows:
            sys.stdout.buffer.write(json_line(row))
        return
    cells = [[_cell(row, column) for column in columns.values()] for row in rows]
    if not cells:
        print(if_none)
        return
    for line in _table([list(columns), *cells]):
        print(line)
    if len(cells) == limit:
        note(f"note: there may be more than these {limit}; raise --limit to see more")


def show_record(record: Row, as_json: bool) -> None:
    """Print one record: as a JSON line, or with a field on each line. Line breaks in a text are kept."""
    if as_json:
        sys.stdout.buffer.write(json_line(record))
        return
    fields = list(_flat(record))
    width = max(len(name) for name, _ in fields)
    for name, text in fields:
        for line in text.splitlines() or [""]:
            print(f"{name:<{width}}{GAP}{printable(line)}".rstrip())
            name = ""


def moment(key: str) -> Callable[[Row], object]:
    """Return a column of times, to the second."""
    return lambda row: row[key] and utc_seconds(row[key])


def utc_seconds(text: str) -> str:
    """Return a time of the database to the second, for people: 2026-11-23 10:00:00Z."""
    return text[:19].replace("T", " ") + "Z"


def display_text(value: object) -> str:
    """Return a value in words for people."""
    if value is None or value == "" or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={display_text(part)}" for name, part in value.items()) or NOTHING
    if isinstance(value, list):
        return ", ".join(map(display_text, value))
    return str(value)


def _cell(row: Row, column: str | Callable[[Row], object]) -> str:
    if callable(column):
        return printable(display_text(column(row)))
    value: Any = row
    for key in column.split("."):
        value = value and value[key]
    return printable(display_text(value))


def _flat(record: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        name = printable(prefix + key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield name, "\n".join(map(display_text, value))
        else:
            yield name, display_text(value)


def _table(lines: list[list[str]]) -> Iterator[str]:
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if terminal:
        lines = [[_cut(cell, WIDEST_CELL) for cell in line] for line in lines]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        text = GAP.join(padded).rstrip()
        yield _cut(text, terminal) if terminal else text


def _width(text: str) -> int:
    """Return the width in columns of a terminal: 2 for an East Asian character, 0 for a combining mark."""
    return sum(map(_columns, text)) if not text.isascii() else len(text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or not is_visible(character):  # as in the middle of an emoji
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    kept, room = [], width - 1
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…"
