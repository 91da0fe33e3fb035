"""The export of leads: CSV for spreadsheets, JSON lines for programs.

A spreadsheet calculates a cell that begins with = + - @ or a tab, so CSV has an apostrophe before it. A phone
number such as +1 555 0100 is such a cell: a spreadsheet would drop its plus, or subtract its parts. A text
that begins with an apostrophe gets one more. A program that drops the first apostrophe of a cell has the text
that the renter sent. JSON is exactly the text that was sent.
"""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handlers.terminal.output import Row, json_line, note
from models.errors import Conflict
from models.lead_dict import LeadDict
from models.lead_record import count_leads, list_leads
from models.outbox.destination import KINDS
from models.shown_text import printable
from models.storage import BlockingStorage

FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
DELIVERY_PARTS = ("state", "attempts", "reason")
COLUMNS = (
    "id",
    "created_at",
    "building_id",
    "customer_id",
    "customer_email",
    "customer_name",
    "customer_phone",
    "customer_spam",
    "requestor_name",
    "requestor_email",
    "requestor_phone",
    "message",
    "slot",
    "unit_preference",
    "property_type",
    "utm_data",
    "listing_source",
    "listing_source_original_id",
    "request_host",
    "website",
    "sms_consent",
    "lead_source",
    "deal_id",
    "deal_stage",
    *(f"{kind}_{part}" for kind in KINDS for part in DELIVERY_PARTS),
)
PROGRESS_EVERY = 1_000


def export_leads(storage: BlockingStorage, form: str, output: Path | None) -> None:
    """Write all leads, the oldest first, with a page of them in memory at a time. output: None for stdout.

    Raises Conflict if the file exists: an export overwrites nothing. A file that is cut short is removed.
    """
    leads = storage.read_each(list_leads, newest_first=False)
    show_progress = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())
    total = storage.read(count_leads) if show_progress else None
    if output is None:
        clean = printable if sys.stdout.isatty() else str
        _write(FORMATS[form](leads, clean), sys.stdout.buffer, total)
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(f"{output} is there already; give another --output") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            count = _write(FORMATS[form](leads, str), file, total)
    except BaseException:
        output.unlink()
        raise
    note(f"{count} leads are in {output}")


def _write(records: Iterator[bytes], sink: BinaryIO, total: int | None) -> int:
    """Write the records and return the number of leads. total: of leads, to show progress; None not to."""
    count = 0
    for record in records:
        sink.write(record)
        if record is HEADER:
            continue
        count += 1
        if total is not None and (count % PROGRESS_EVERY == 0 or count == total):
            print(f"\r{count} of {total} leads", end="", file=sys.stderr, flush=True)
    if total is not None:
        print(file=sys.stderr)
    return count


class _Line:
    """A file for csv.writer whose `write` returns the line."""

    def write(self, line: str) -> str:
        return line


HEADER: bytes = csv.writer(_Line()).writerow(COLUMNS).encode()


def _csv_lines(leads: Iterable[LeadDict], clean: Callable[[str], str]) -> Iterator[bytes]:
    writer = csv.DictWriter(_Line(), COLUMNS, restval="")  # raises for a field without a column
    yield HEADER
    for lead in leads:
        cells = {name: clean(_cell(value)) for name, value in flat(lead).items()}
        yield writer.writerow(cells).encode()  # the line that _Line.write returned


def _json_lines(leads: Iterable[LeadDict], clean: Callable[[str], str]) -> Iterator[bytes]:
    return map(json_line, leads)


FORMATS: dict[str, Callable[[Iterable[LeadDict], Callable[[str], str]], Iterator[bytes]]] = {
    "csv": _csv_lines,
    "json": _json_lines,
}


def flat(lead: LeadDict) -> dict[str, Any]:
    """Return a lead without nesting: a column for each field of its customer, deal and deliveries."""
    row: dict[str, Any] = {}
    values: Row = lead
    for name, value in values.items():
        if name in ("customer", "deal"):
            row |= {f"{name}_{part}": inner for part, inner in (value or {}).items()}
        elif name == "deliveries":
            row |= {f"{d['kind']}_{part}": d[part] for d in value for part in DELIVERY_PARTS}
        else:
            row[name] = value
    return row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return "'" + value if value.startswith(FORMULA_PREFIXES) else value
    return orjson.dumps(value).decode()
