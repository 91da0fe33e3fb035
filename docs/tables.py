"""The generated tables of the documentation: `make docs` writes them, and a test fails when they are stale.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Its rows come from the code: fields
from the schema, answers from the OpenAPI document, settings from `Settings`, commands from the parser.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from handlers.docs import answer_rows, field_rows
from handlers.terminal import PROGRAM_HELP, make_parser
from handlers.terminal.arguments import FLAG
from models.settings import setting_metadata, setting_names

FOLDER = Path(__file__).parent
FILES = tuple(FOLDER / name for name in ("integrating.md", "operating.md"))
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Row = Sequence[str]


def fields() -> Iterator[Row]:
    """Return the fields of a request: name, meaning, limit."""
    yield "field", "meaning", "limit"
    for name, meaning, limit in field_rows():
        yield code(name), meaning, limit


def answers() -> Iterator[Row]:
    """Return the answers of the API: status, body, meaning."""
    yield "status", "body", "meaning"
    for status, body, meaning in answer_rows():
        yield code(status), code(body) if body else "", meaning


def settings() -> Iterator[Row]:
    """Return the settings: variable, default, meaning, accepted values."""
    yield "variable", "default", "meaning", "takes"
    for name in setting_names():
        known = setting_metadata(name)
        default = code(known["default"]) if known["default"] else ""
        yield code(f"LEADS_{name.upper()}"), default, known["help"], known["takes"]


def commands() -> Iterator[Row]:
    """Return the commands: name with arguments, meaning. Settings and `--json` are left out."""
    yield "command", "meaning"
    parser = make_parser(dict.fromkeys(PROGRAM_HELP, lambda settings: 0), lambda *arguments: [])
    yield from _commands(parser, "")


def _commands(parser: argparse.ArgumentParser, prefix: str) -> Iterator[Row]:
    for group in parser._actions:
        if not isinstance(group, argparse._SubParsersAction):
            continue
        for entry in group._choices_actions:
            command = group.choices[entry.dest]
            name = f"{prefix}{entry.dest}"
            below = list(_commands(command, f"{name} "))
            if below:
                yield from below
            else:
                yield " ".join(map(code, (name, *_arguments(command)))), entry.help or ""


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in command._actions:
        if action.dest in ("help", "json", "config") or action.dest.startswith(FLAG):
            continue
        value = action.metavar or "|".join(action.choices or ()) or action.dest.upper()
        text = str(value)
        if action.option_strings:
            option = action.option_strings[-1]
            text = option if action.nargs == 0 else f"{option} {text}"
        repeatable = action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction)
        text += " …" if repeatable else ""
        yield text if action.required and action.nargs != "*" else f"[{text}]"


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "fields": fields,
    "answers": answers,
    "settings": settings,
    "commands": commands,
}


def code(text: str) -> str:
    """Return the text as code in Markdown."""
    return f"`{text}`"


def render(rows: Iterator[Row]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = rows
    return "".join(map(_line, (head, ["---"] * len(head), *body)))


def _line(cells: Row) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def with_tables(text: str) -> str:
    """Return the document with each of its tables generated anew."""
    return TABLE.sub(lambda match: match[1] + render(TABLES[match[2]]()) + match[3], text)


if __name__ == "__main__":
    for file in FILES:
        file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
