"""Owns what commands print: aligned tables and records for people, JSON lines for programs.

Renters' words go to the operator's terminal here, so what a terminal would obey is taken out of them.
"""

import io
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

Row = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Row], object]]  # heading: a key, dotted if nested, or a function

NOTHING = "-"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
WIDEST_CELL = 40  # on a terminal; so that one long cell doesn't push the others off it
GAP = "  "
# JSON escapes the controls below space by itself; these are the rest that a terminal may obey.
CONTROLS_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def prepare_output() -> None:
    """Have a terminal that can't show a character show its number instead of failing, and what is said into a
    closed output (2>&-) go nowhere.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # or a file of ours would be opened in its place
        pass
    os.close(spare)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """The text on one line, without the characters that a terminal obeys rather than shows."""
    return "".join(c if c.isprintable() else " " if c in "\r\n\t" else REPLACEMENT for c in text)


def json_line(record: Row) -> bytes:
    """The record as one line of JSON, in UTF-8, safe to show on a terminal."""
    text = orjson.dumps(record).decode()
    return CONTROLS_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def say(*lines: str) -> None:
    """Say these lines to people."""
    for line in lines:
        print(printable(line))


def note(line: str) -> None:
    """Say one line to the person beside the output: a refusal, a warning, a hint."""
    print(printable(line), file=sys.stderr)


def progress(step: str) -> None:
    """Tell whoever waits at a terminal what is being done."""
    if sys.stderr.isatty():
        note(f"{step} ...")


def answer(record: Row, as_json: bool, *lines: str) -> None:
    """Say what a command did: the record for programs, the lines for people."""
    if as_json:
        sys.stdout.buffer.write(json_line(record))
    else:
        say(*lines)


def list_rows(
    rows: Iterable[Row], columns: Columns, as_json: bool, if_none: str, limit: int | None = None
) -> None:
    """Print rows, as JSON lines or as a table; for people an empty table is a sentence, and of as many as
    the limit it is said that there may be more.
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
        note(f"note: there may be more than these {limit}; --limit shows so many")


def show_record(record: Row, as_json: bool) -> None:
    """Print one record, as a JSON line or a field a line; a text with line breaks keeps them."""
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
    """A column of times, to the second."""
    return lambda row: row[key] and row[key][:19].replace("T", " ") + "Z"


def in_words(value: object) -> str:
    """A value as people read it."""
    if value is None or value == "" or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={in_words(part)}" for name, part in value.items()) or NOTHING
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    return str(value)


def _cell(row: Row, column: str | Callable[[Row], object]) -> str:
    if callable(column):
        return printable(in_words(column(row)))
    value: Any = row
    for key in column.split("."):
        value = value and value[key]
    return printable(in_words(value))


def _flat(record: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        name = printable(prefix + key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield name, "\n".join(map(in_words, value))
        else:
            yield name, in_words(value)


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
    """How many columns of a terminal it takes: an East Asian character two, a combining mark none."""
    return sum(map(_columns, text)) if not text.isascii() else len(text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
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
