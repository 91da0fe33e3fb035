"""Owns how the log is written: one line an event, with its facts as fields, and nothing of a renter's."""

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

log = logging.getLogger("leads.http")

STANDARD_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """Time, level, event and fields; of an exception its type and place, but not its words, which may
    quote what a client sent.
    """

    def line(self, seconds: float, level: str, event: str, facts: dict[str, Any]) -> str:
        """What happened at this time, seconds since 1970, as it is written."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        return self.line(record.created, record.levelname, self.event(record), self.facts(record))

    def event(self, record: logging.LogRecord) -> str:
        """What happened, on one line. Of other people's records only the words that are fixed: what they
        fill in may quote a client.
        """
        if record.name.startswith("leads"):
            return record.getMessage()
        return f"{record.name}: {str(record.msg).partition(chr(10))[0]}"

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields given with `extra`, and the exception's."""
        facts = {name: value for name, value in vars(record).items() if name not in STANDARD}
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
    """Writes the log of the whole process; the line of an answer without the ways of `logging`, which take a
    tenth of the time of a lead.
    """

    def __init__(self, stream: TextIO, formatter: Formatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line = formatter.line

    def write(self, event: str, facts: dict[str, Any]) -> None:
        """Write a line of level INFO. A log that can't be written disturbs nothing else."""
        with suppress(Exception):
            line = self._line(time.time(), "INFO", event, facts) + "\n"
            self.acquire()
            try:
                self.stream.write(line)
            finally:
                self.release()


def log_answer(
    request_id: str, method: str, route: str, status: int, seconds: float, fields: dict[str, Any]
) -> None:
    """Write the access log's line: no path from outside, no address, no body."""
    if _handler is not None and log.isEnabledFor(logging.INFO):
        _handler.write(
            "answered",
            {
                "request": request_id,
                "method": method if method in STANDARD_METHODS else "(other)",
                "route": route,
                **fields,
                "status": status,
                "ms": round(1e3 * seconds, 1),
            },
        )


_handler: LogHandler | None = None


def configure(log_format: str, stream: TextIO | None = None) -> None:
    """Write the log of the whole process to this stream, or standard error, as 'text' or 'json'."""
    global _handler
    # What no line of ours shows is not to be looked up for each of them either.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "_srcfile", None)  # as the manual of `logging` has it: don't look for the caller
    _handler = LogHandler(stream or sys.stderr, JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[_handler], force=True)
    logging.getLogger("leads").setLevel(logging.INFO)


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int(1e3 * (seconds - whole)):03}Z"


@functools.lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _quoted(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


_PLAIN = re.compile(r'[^\s"=\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+')
