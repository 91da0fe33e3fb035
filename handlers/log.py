"""The log's format and its handler: one line an event, with its facts as fields, and no data of a renter."""

import functools
import json
import logging
import re
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from models.shown_text import printable

# Attributes that every record has. Any other was given with `extra`.
RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_UNQUOTED = re.compile(r'[^\s"=\x00-\x1f\x7f]+')


class Formatter(logging.Formatter):
    """Formatter of time, level, event and fields.

    Of an exception it writes the type and the place. The message may quote what a client sent.
    """

    def line(self, seconds: float, level: str, event: str, facts: dict[str, Any]) -> str:
        """Return the line of an event, without a line break. seconds: its time, since 1970."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        return self.line(record.created, record.levelname, self.event(record), self.facts(record))

    def event(self, record: logging.LogRecord) -> str:
        """Return the event on one line. Of other libraries' records only the template is written.

        The arguments of a template may quote a client.
        """
        if record.name.startswith("leads"):
            return record.getMessage()
        return f"{record.name}: {str(record.msg).partition(chr(10))[0]}"

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields given with `extra`, and those of the exception."""
        facts = {name: value for name, value in vars(record).items() if name not in RECORD_ATTRIBUTES}
        if record.exc_info and record.exc_info[0] is not None:
            facts["exception"] = record.exc_info[0].__name__
            facts["at"] = " < ".join(
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno}:{frame.name}"
                for frame in reversed(traceback.extract_tb(record.exc_info[2]))
            )
        return facts


class TextFormatter(Formatter):
    """For people: 2026-11-23T10:00:00.000Z INFO answered status=201 ms=3.1"""

    def line(self, seconds: float, level: str, event: str, facts: dict[str, Any]) -> str:
        fields = "".join([f" {name}={_quoted(value)}" for name, value in facts.items()])
        return f"{_time(seconds)} {level} {event}{fields}"


class JsonFormatter(Formatter):
    """For programs: one JSON object a line."""

    def line(self, seconds: float, level: str, event: str, facts: dict[str, Any]) -> str:
        return json.dumps({"time": _time(seconds), "level": level, "event": event, **facts}, default=str)


class LogHandler(logging.StreamHandler[TextIO]):
    """Handler of the whole process's log, which also takes events that are no records of `logging`."""

    def __init__(self, stream: TextIO, formatter: Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line = formatter.line

    def write_info(self, event: str, facts: dict[str, Any]) -> None:
        """Write a line of level INFO, without a record. A failed write is ignored."""
        with suppress(Exception):
            line = self._line(time.time(), "INFO", event, facts) + "\n"
            self.acquire()
            try:
                self.stream.write(line)
            finally:
                self.release()


def configure(log_format: str, stream: TextIO | None = None) -> LogHandler:
    """Send the whole process's log to a stream, and return the handler that writes it.

    log_format: 'text' or 'json'. stream: standard error by default.
    """
    # Fields that no line shows cost 7 µs a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler = LogHandler(stream or sys.stderr, formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("leads").setLevel(logging.INFO)
    return handler


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int(1e3 * (seconds - whole)):03}Z"


@functools.lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _quoted(value: Any) -> str:
    text = str(value)
    is_plain = _UNQUOTED.fullmatch(text) and (text.isascii() or text == printable(text))
    return text if is_plain else json.dumps(text)
