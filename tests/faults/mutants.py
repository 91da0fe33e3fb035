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
import handlers.api.validation
import handlers.http_server
import jobs.clock_monitor
import jobs.dispatcher
import jobs.email.message
import jobs.email.mime
import models.clock
import models.idempotency
import models.intake
import models.outbox.actions
import models.outbox.claims
import models.outbox.destination
import models.storage.sqlite.backup
import models.storage.sqlite.connection
import models.storage.sqlite.folder
import models.storage.sqlite.migrations.migrate
import models.storage.sqlite.restore
import models.storage.sqlite.wal
import models.storage.sqlite.writer
from handlers.api.rate_limit import RateLimiter
from jobs.adapter import Adapter, DeliveryContext, DeliveryError

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
    def commit(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        for request, result in zip(self._batch, results, strict=True):
            request.callback(result)
            request.callback = _said_already

        def slowly() -> None:
            time.sleep(0.01)
            self._transaction.commit()

        self._thread.run(slowly, partial(self._committed, results))

    patch.setattr(models.storage.sqlite.writer.Writer, "_commit", commit)


def _said_already(result: Any) -> None: ...


@mutant
def synchronous_is_normal(patch: Patch) -> None:
    patch.setitem(models.storage.sqlite.connection.PRAGMAS, "synchronous", ("normal", 1))


@mutant
def takes_a_failure_for_success(patch: Patch) -> None:
    answer = models.storage.sqlite.writer.Writer._complete

    def believing(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        for at, request in enumerate(self._batch):
            failed = results[at].error is not None
            if failed and request.operation is models.intake.record_leads:
                lead = models.intake.Recorded(10**9 + time.monotonic_ns() % 10**9)
                results[at] = models.storage.WriteResult(lead)
        answer(self, results)

    patch.setattr(models.storage.sqlite.writer.Writer, "_complete", believing)


@mutant
def goes_on_after_a_failed_commit(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.connection, "OutcomeUnknown", models.storage.StorageError)


@mutant
def leaves_the_journal_as_it_was(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.wal, "truncate_wal", lambda: True)


@mutant
def goes_on_after_a_failed_move(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.wal, "OutcomeUnknown", models.storage.StorageError)


@mutant
def moves_the_journal_as_it_closes(patch: Patch) -> None:
    close = models.storage.sqlite.connection.close_database
    patch.setattr(models.storage.sqlite.writer, "close_database", lambda **_: close(checkpoint=True))


@mutant
def takes_an_attempt_for_a_delivery(patch: Patch) -> None:
    """Marks a mail as sent whatever became of it."""
    init = jobs.dispatcher.KindWorker.__init__

    def believing(self: Any, kind: str, adapter: Adapter, *rest: Any) -> None:
        class Believing(Adapter):
            async def deliver(self, context: DeliveryContext) -> None:
                try:
                    await adapter.deliver(context)
                except DeliveryError:
                    pass

        init(self, kind, Believing(), *rest)

    patch.setattr(jobs.dispatcher.KindWorker, "__init__", believing)


@mutant
def waits_for_each_kind_in_turn(patch: Patch) -> None:
    deliver, one_at_a_time = jobs.dispatcher.KindWorker._deliver, asyncio.Lock()

    async def in_turn(self: Any, claimed: Any) -> None:
        async with one_at_a_time:
            await deliver(self, claimed)

    patch.setattr(jobs.dispatcher.KindWorker, "_deliver", in_turn)


@mutant
def holds_no_destination(patch: Patch) -> None:
    patch.setattr(models.outbox.claims, "trip", lambda *args, **kwargs: None)
    patch.setattr(
        models.outbox.claims, "breaker_state", lambda *args: models.outbox.destination.BreakerState.CLOSED
    )


@mutant
def has_no_watchdog(patch: Patch) -> None:
    async def check(self: jobs.clock_monitor.ClockMonitor) -> None:
        return None

    patch.setattr(jobs.clock_monitor.ClockMonitor, "check", check)


@mutant
def limits_by_the_time_of_day(patch: Patch) -> None:
    def by_the_clock(self: models.clock.Clock) -> int:
        return int(self.now().timestamp() * 1e9)

    patch.setattr(models.clock.Clock, "monotonic_ns", by_the_clock)


@mutant
def takes_ten_connections_at_once(patch: Patch) -> None:
    patch.setattr(handlers.http_server, "MAX_CONNECTIONS", 10)


@mutant
def accepts_as_tornado_does(patch: Patch) -> None:
    server = handlers.http_server.LimitedHTTPServer

    def add_sockets(self: Any, sockets: Any) -> None:
        self._loop = asyncio.get_running_loop()
        tornado.tcpserver.TCPServer.add_sockets(self, sockets)
        self._close_timed_out()

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
    patch.setattr(handlers.api.validation, "clean_text", lambda text, keep_lines=False: text or None)
    for module in (jobs.email.message, jobs.email.mime):
        patch.setattr(module, "one_line", lambda text, limit=None: str(text))
    patch.setattr(jobs.email.mime, "_is_literal", lambda text: True)
    patch.setattr(jobs.email.message, "text_header", lambda name, text: f"{name}: {text}")


@mutant
def forgets_everyone_when_there_are_many(patch: Patch) -> None:
    patch.setattr(RateLimiter, "_evict", lambda self, now_ns: self._full_at.clear())


@mutant
def forgets_nobody(patch: Patch) -> None:
    patch.setattr(RateLimiter, "_evict", lambda self, now_ns: None)


@mutant
def upgrades_without_a_transaction(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.migrations.migrate, "transaction", nullcontext)


@mutant
def copies_the_file(patch: Patch) -> None:
    patch.setattr(
        models.storage.sqlite.backup, "copy_database", lambda source, target: shutil.copyfile(source, target)
    )


@mutant
def restores_without_a_mark(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.restore, "RESTORING", "leads.db.elsewhere")


@mutant
def restores_without_a_pause(patch: Patch) -> None:
    patch.setattr(models.outbox.actions, "pause", lambda *args: None)


@mutant
def forgets_keys(patch: Patch) -> None:
    patch.setattr(models.intake, "find_key_records", lambda digests, now: {})
    patch.setattr(models.intake, "save_key_records", lambda tries, now: None)


@mutant
def keeps_keys_in_a_later_transaction(patch: Patch) -> None:
    keep = models.idempotency.save_key_records
    kept: list[tuple[Any, Any]] = []
    answer = models.storage.sqlite.writer.Writer._complete

    def keeping(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        with models.storage.sqlite.connection.transaction():
            while kept:
                keep(*kept.pop())
        answer(self, results)

    patch.setattr(models.intake, "save_key_records", lambda tries, now: kept.append((tries, now)))
    patch.setattr(models.storage.sqlite.writer.Writer, "_complete", keeping)


@mutant
def takes_its_copy_for_whole(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.restore, "truncate_wal", lambda: True)
    patch.setattr(models.storage.sqlite.restore, "read_back", lambda path: None)


@mutant
def cannot_undo_what_was_begun(patch: Patch) -> None:
    patch.setattr(apsw, "SQLITE_OPEN_READWRITE", apsw.SQLITE_OPEN_READONLY)
