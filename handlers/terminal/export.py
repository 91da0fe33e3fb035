"""Owns the export of leads: CSV for spreadsheets, JSON lines for programs.

In CSV a cell that a spreadsheet would calculate, one that begins with = + - @ or a tab, has an apostrophe
put before it. A phone number such as +1 555 0100 is among them: without one a spreadsheet drops its plus,
or subtracts its parts. A text that begins with an apostrophe gets one more, so whoever reads the file can
always drop the first apostrophe of a cell and have what the renter sent. JSON is exactly what was sent.
"""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handlers.terminal.listing import Row, json_line, note, printable
from models.errors import ActionError
from models.lead_record import count_leads, list_leads
from models.outbox.destination import KINDS

CALCULATED = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
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
    "sms_consent",
    "lead_source",
    "deal_id",
    "deal_stage",
    *(f"{kind}_{part}" for kind in KINDS for part in DELIVERY_PARTS),
)
PROGRESS_EVERY = 1_000


def export_leads(form: str, output: Path | None) -> None:
    """Write all leads, the oldest first, a page of them in memory at a time; to stdout without a path.

    Raises ActionError if the file exists: an export is never overwritten, and one cut short is removed.
    """
    if output is None:
        clean = printable if sys.stdout.isatty() else str
        _write(FORMATS[form](list_leads(newest_first=False), clean), sys.stdout.buffer, sys.stdout.isatty())
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ActionError(f"{output} is there already; give another --output") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            count = _write(FORMATS[form](list_leads(newest_first=False), str), file, quiet=False)
    except BaseException:
        output.unlink()
        raise
    note(f"{count} leads are in {output}")


def _write(records: Iterator[bytes], sink: BinaryIO, quiet: bool) -> int:
    show_progress = sys.stderr.isatty() and not quiet
    total = count_leads() if show_progress else 0
    count = 0
    for record in records:
        sink.write(record)
        if record is HEADER:
            continue
        count += 1
        if show_progress and (count % PROGRESS_EVERY == 0 or count == total):
            print(f"\r{count} of {total} leads", end="", file=sys.stderr, flush=True)
    if show_progress:
        print(file=sys.stderr)
    return count


class _Line:
    """A file to csv.writer: hands each line back instead of keeping it."""

    def write(self, line: str) -> str:
        return line


HEADER: bytes = csv.writer(_Line()).writerow(COLUMNS).encode()


def _csv_lines(leads: Iterable[Row], clean: Callable[[str], str]) -> Iterator[bytes]:
    writer = csv.DictWriter(_Line(), COLUMNS, restval="")  # refuses a field that has no column
    yield HEADER
    for lead in leads:
        cells = {name: clean(_cell(value)) for name, value in flat(lead).items()}
        yield writer.writerow(cells).encode()  # what _Line.write returned


def _json_lines(leads: Iterable[Row], clean: Callable[[str], str]) -> Iterator[bytes]:
    return map(json_line, leads)


FORMATS: dict[str, Callable[[Iterable[Row], Callable[[str], str]], Iterator[bytes]]] = {
    "csv": _csv_lines,
    "json": _json_lines,
}


def flat(lead: Row) -> dict[str, Any]:
    """A lead without nesting: customer and deal field by field, each kind of delivery its own columns."""
    row: dict[str, Any] = {}
    for name, value in lead.items():
        if name in ("customer", "deal"):
            row |= {f"{name}_{part}": of_it for part, of_it in (value or {}).items()}
        elif name == "deliveries":
            row |= {f"{d['kind']}_{part}": d[part] for d in value for part in DELIVERY_PARTS}
        else:
            row[name] = value
    return row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return "'" + value if value.startswith(CALCULATED) else value
    return orjson.dumps(value).decode()
