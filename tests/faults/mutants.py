"""Owns the mutants: defects put into the program on purpose, each of which a harness must find."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import apsw
import pytest
import tornado.httpserver
import tornado.tcpserver

import handlers.api.body
import handlers.api.schemas
import handlers.connections
import jobs.dispatcher
import jobs.email_message
import jobs.watchdog
import models.backup
import models.clock
import models.data_folder
import models.database
import models.destination
import models.idempotency
import models.intake
import models.journal
import models.migrations
import models.outbox
import models.restore
import models.writer
from handlers.api.throttle import Throttle
from jobs.delivery import Adapter, DeliveryError, Parcel

Patch = pytest.MonkeyPatch
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(put_in: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a mutant by its name in words."""
    MUTANTS[put_in.__name__.replace("_", " ")] = put_in
    return put_in


def put_in(name: str) -> None:
    """Put the mutant into this process, for good."""
    MUTANTS[name](Patch())


@contextmanager
def for_a_while(name: str | None) -> Iterator[None]:
    """Put the mutant, if one is named, into this process until the block is left."""
    with Patch.context() as patch:
        if name:
            MUTANTS[name](patch)
        yield


@mutant
def answers_before_the_commit(patch: Patch) -> None:
    def commit(self: models.writer.Writer, results: list[Any]) -> None:
        for request, result in zip(self._batch, results, strict=True):
            request.answered(result, None)
            request.answered = _said_already

        def slowly() -> None:
            time.sleep(0.01)
            self._transaction.commit()

        self._waiter.do(slowly, partial(self._committed, results))

    patch.setattr(models.writer.Writer, "_commit", commit)


def _said_already(result: Any, error: Exception | None) -> None: ...


@mutant
def synchronous_is_normal(patch: Patch) -> None:
    patch.setitem(models.database.PRAGMAS, "synchronous", ("normal", 1))


@mutant
def takes_a_failure_for_success(patch: Patch) -> None:
    answer = models.writer.Writer._answer

    def believing(self: models.writer.Writer, results: list[Any]) -> None:
        for at, request in enumerate(self._batch):
            failed = isinstance(results[at], models.writer._Failure)
            if failed and request.operation is models.intake.record_leads:
                results[at] = models.intake.Recorded(10**9 + time.monotonic_ns() % 10**9)
        answer(self, results)

    patch.setattr(models.writer.Writer, "_answer", believing)


@mutant
def goes_on_after_a_failed_commit(patch: Patch) -> None:
    patch.setattr(models.database, "OutcomeUnknown", models.database.StorageError)


@mutant
def leaves_the_journal_as_it_was(patch: Patch) -> None:
    patch.setattr(models.data_folder, "empty_journal", lambda: True)


@mutant
def goes_on_after_a_failed_move(patch: Patch) -> None:
    patch.setattr(models.journal, "OutcomeUnknown", models.database.StorageError)


@mutant
def moves_the_journal_as_it_closes(patch: Patch) -> None:
    close = models.database.close_database
    patch.setattr(models.writer, "close_database", lambda **_: close(moves_journal=True))


@mutant
def takes_an_attempt_for_a_delivery(patch: Patch) -> None:
    """Marks a mail as sent whatever became of it."""
    init = jobs.dispatcher._Lane.__init__

    def believing(self: Any, kind: str, adapter: Adapter, *rest: Any) -> None:
        class Believing(Adapter):
            async def deliver(self, parcel: Parcel) -> None:
                try:
                    await adapter.deliver(parcel)
                except DeliveryError:
                    pass

        init(self, kind, Believing(), *rest)

    patch.setattr(jobs.dispatcher._Lane, "__init__", believing)


@mutant
def waits_for_each_kind_in_turn(patch: Patch) -> None:
    deliver, one_at_a_time = jobs.dispatcher._Lane._deliver, asyncio.Lock()

    async def in_turn(self: Any, claimed: Any) -> None:
        async with one_at_a_time:
            await deliver(self, claimed)

    patch.setattr(jobs.dispatcher._Lane, "_deliver", in_turn)


@mutant
def holds_no_destination(patch: Patch) -> None:
    patch.setattr(models.outbox, "hold", lambda *args, **kwargs: None)
    patch.setattr(models.outbox, "openness", lambda *args: models.destination.Openness.OPEN)


@mutant
def has_no_watchdog(patch: Patch) -> None:
    async def look(self: jobs.watchdog.Watchdog) -> None:
        return None

    patch.setattr(jobs.watchdog.Watchdog, "look", look)


@mutant
def limits_by_the_time_of_day(patch: Patch) -> None:
    def by_the_clock(self: models.clock.Clock) -> int:
        return int(self.now().timestamp() * 1e9)

    patch.setattr(models.clock.Clock, "monotonic_ns", by_the_clock)


@mutant
def takes_ten_connections_at_once(patch: Patch) -> None:
    patch.setattr(handlers.connections, "MOST_CONNECTIONS", 10)


@mutant
def accepts_as_tornado_does(patch: Patch) -> None:
    server = handlers.connections.ConnectionServer

    def add_sockets(self: Any, sockets: Any) -> None:
        self._loop = asyncio.get_running_loop()
        tornado.tcpserver.TCPServer.add_sockets(self, sockets)
        self._close_late_ones()

    patch.setattr(server, "add_sockets", add_sockets)
    patch.setattr(server, "on_close", tornado.httpserver.HTTPServer.on_close)
    patch.setattr(server, "_pause", lambda self: None)


@mutant
def trusts_json(patch: Patch) -> None:
    def trusting(body: bytes) -> Any:
        return json.loads(body or b"{}")

    patch.setattr(handlers.api.body, "_decode_json", trusting)


@mutant
def writes_headers_as_they_come(patch: Patch) -> None:
    patch.setattr(handlers.api.schemas, "clean_text", lambda text, keep_lines=False: text or None)
    patch.setattr(jobs.email_message, "one_line", lambda text, limit=None: str(text))
    patch.setattr(jobs.email_message, "_plain", lambda text: True)
    patch.setattr(jobs.email_message, "_text_header", lambda name, text: f"{name}: {text}")


@mutant
def forgets_everyone_when_there_are_many(patch: Patch) -> None:
    patch.setattr(Throttle, "_forget", lambda self, now_ns: self._full_at.clear())


@mutant
def forgets_nobody(patch: Patch) -> None:
    patch.setattr(Throttle, "_forget", lambda self, now_ns: None)


@mutant
def upgrades_without_a_transaction(patch: Patch) -> None:
    patch.setattr(models.migrations, "transaction", nullcontext)


@mutant
def copies_the_file(patch: Patch) -> None:
    patch.setattr(models.backup, "copy_database", lambda source, target: shutil.copyfile(source, target))


@mutant
def restores_without_a_mark(patch: Patch) -> None:
    patch.setattr(models.restore, "RESTORING", "leads.db.elsewhere")


@mutant
def restores_without_a_pause(patch: Patch) -> None:
    patch.setattr(models.restore, "pause", lambda *args: None)


@mutant
def forgets_keys(patch: Patch) -> None:
    patch.setattr(models.intake, "first_tries", lambda digests, now: {})
    patch.setattr(models.intake, "keep_first_tries", lambda tries, now: None)


@mutant
def keeps_keys_in_a_later_transaction(patch: Patch) -> None:
    keep = models.idempotency.keep_first_tries
    kept: list[tuple[Any, Any]] = []
    answer = models.writer.Writer._answer

    def keeping(self: models.writer.Writer, results: list[Any]) -> None:
        with models.database.transaction():
            while kept:
                keep(*kept.pop())
        answer(self, results)

    patch.setattr(models.intake, "keep_first_tries", lambda tries, now: kept.append((tries, now)))
    patch.setattr(models.writer.Writer, "_answer", keeping)


@mutant
def takes_its_copy_for_whole(patch: Patch) -> None:
    patch.setattr(models.restore, "empty_journal", lambda: True)
    patch.setattr(models.restore, "read_back", lambda path: None)


@mutant
def cannot_undo_what_was_begun(patch: Patch) -> None:
    patch.setattr(apsw, "SQLITE_OPEN_READWRITE", apsw.SQLITE_OPEN_READONLY)
