"""Mutants: defects that are put into the program on purpose, and that a fault run must catch."""

import asyncio
import importlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import tornado.tcpserver

import handlers.api.body
import handlers.api.submission
import handlers.background_file
import handlers.client_stream
import handlers.http_server
import jobs.clock_monitor
import jobs.dispatcher
import jobs.email.lead_content
import jobs.email.message
import jobs.email.mime
import models.clock
import models.idempotency
import models.intake
import models.outbox.actions
import models.outbox.claims
import models.outbox.destination
import models.outbox.outcomes
import models.storage.sqlite.backup
import models.storage.sqlite.connection
import models.storage.sqlite.inspect
import models.storage.sqlite.migrations.migrate
import models.storage.sqlite.restore
import models.storage.sqlite.wal
import models.storage.sqlite.writer
from handlers.api.rate_limit import RateLimiter
from jobs.adapter import Adapter, DeliveryContext, DeliveryError

Patch = pytest.MonkeyPatch
MODULES = ("hostile_mutants", "postgres_mutants")  # with further mutants
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a mutant; its name is the function's, in words."""
    MUTANTS[apply.__name__.replace("_", " ")] = apply
    return apply


def all_mutants() -> dict[str, Callable[[Patch], None]]:
    """Return every mutant by name."""
    for module in MODULES:
        importlib.import_module(module)
    return MUTANTS


def apply_mutant(name: str) -> None:
    """Put the mutant into this process for good."""
    all_mutants()[name](Patch())


@contextmanager
def temporary_mutant(name: str | None) -> Iterator[None]:
    """Put the mutant, if one is named, into this process until the block is left."""
    with Patch.context() as patch:
        if name:
            all_mutants()[name](patch)
        yield


@mutant
def answers_before_the_commit(patch: Patch) -> None:
    def commit(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        for request, result in zip(self._batch, results, strict=True):
            request.callback(result)
            request.callback = _answered_already

        def commit_late() -> None:
            time.sleep(0.01)
            self._transaction.commit()

        self._thread.run(commit_late, partial(self._committed, results))

    patch.setattr(models.storage.sqlite.writer.Writer, "_commit", commit)


def _answered_already(result: Any) -> None: ...


@mutant
def synchronous_is_normal(patch: Patch) -> None:
    patch.setitem(models.storage.sqlite.connection.PRAGMAS, "synchronous", ("normal", 1))


@mutant
def takes_a_failure_for_success(patch: Patch) -> None:
    complete = models.storage.sqlite.writer.Writer._complete

    def claim_success(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        for at, request in enumerate(self._batch):
            failed = results[at].error is not None
            if failed and request.operation is models.intake.record_leads:
                lead = models.intake.Recorded(10**9 + time.monotonic_ns() % 10**9, None)
                results[at] = models.storage.WriteResult(lead)
        complete(self, results)

    patch.setattr(models.storage.sqlite.writer.Writer, "_complete", claim_success)


@mutant
def goes_on_after_a_failed_commit(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.connection, "OutcomeUnknown", models.storage.StorageError)


@mutant
def starts_without_a_checkpoint(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.wal, "truncate_wal", lambda: True)


@mutant
def goes_on_after_a_failed_checkpoint(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.wal, "OutcomeUnknown", models.storage.StorageError)


@mutant
def checkpoints_at_close(patch: Patch) -> None:
    close = models.storage.sqlite.connection.close_database
    patch.setattr(models.storage.sqlite.writer, "close_database", lambda **_: close(checkpoint=True))


@mutant
def marks_every_attempt_as_delivered(patch: Patch) -> None:
    init = jobs.dispatcher.KindWorker.__init__

    def trusting(self: Any, kind: str, adapter: Adapter, *rest: Any) -> None:
        class Trusting(Adapter):
            async def deliver(self, context: DeliveryContext) -> str:
                try:
                    return await adapter.deliver(context)
                except DeliveryError:
                    return ""

            def recipient(self, context: DeliveryContext) -> str | None:
                return adapter.recipient(context)

        init(self, kind, Trusting(), *rest)

    patch.setattr(jobs.dispatcher.KindWorker, "__init__", trusting)


@mutant
def delivers_one_kind_at_a_time(patch: Patch) -> None:
    deliver, one_at_a_time = jobs.dispatcher.KindWorker._deliver, asyncio.Lock()

    async def in_turn(self: Any, claimed: Any) -> None:
        async with one_at_a_time:
            await deliver(self, claimed)

    patch.setattr(jobs.dispatcher.KindWorker, "_deliver", in_turn)


@mutant
def never_trips_a_circuit_breaker(patch: Patch) -> None:
    patch.setattr(models.outbox.outcomes, "trip", lambda *args, **kwargs: None)
    patch.setattr(
        models.outbox.claims, "breaker_state", lambda *args: models.outbox.destination.BreakerState.CLOSED
    )


@mutant
def does_not_monitor_the_clock(patch: Patch) -> None:
    async def check(self: jobs.clock_monitor.ClockMonitor) -> None:
        return None

    patch.setattr(jobs.clock_monitor.ClockMonitor, "check", check)


@mutant
def limits_by_the_time_of_day(patch: Patch) -> None:
    def by_the_clock(self: models.clock.Clock) -> int:
        return int(self.now().timestamp() * 1e9)

    patch.setattr(models.clock.Clock, "monotonic_ns", by_the_clock)


@mutant
def allows_ten_connections(patch: Patch) -> None:
    patch.setattr(handlers.http_server, "MAX_CONNECTIONS", 10)
    patch.setattr(handlers.http_server, "EVICTED_AFTER_SECONDS", 1e6)


@mutant
def accepts_as_tornado_does(patch: Patch) -> None:
    server = handlers.http_server.LimitedHTTPServer

    def add_sockets(self: Any, sockets: Any) -> None:
        self._loop = asyncio.get_running_loop()
        tornado.tcpserver.TCPServer.add_sockets(self, sockets)
        self._close_timed_out()

    def handle_connection(self: Any, connection: Any, address: Any) -> None:
        stream = handlers.client_stream.ClientStream(connection, self, self._shares)
        self._shares.add(stream, self._shares.holder_of_peer(address[0]))
        self.handle_stream(stream, address)

    patch.setattr(server, "add_sockets", add_sockets)
    patch.setattr(server, "_handle_connection", handle_connection)


@mutant
def trusts_json(patch: Patch) -> None:
    def decode(body: bytes) -> Any:
        return json.loads(body or b"{}")

    patch.setattr(handlers.api.body, "_decode_json", decode)


@mutant
def writes_headers_unescaped(patch: Patch) -> None:
    patch.setattr(handlers.api.submission, "clean_text", lambda text, keep_lines=False: text or None)
    for module in (jobs.email.lead_content, jobs.email.message, jobs.email.mime):
        patch.setattr(module, "one_line", lambda text, limit=None: str(text))
    patch.setattr(jobs.email.lead_content, "visible_line", lambda text, limit=None: str(text))
    patch.setattr(jobs.email.mime, "_is_literal", lambda text: True)
    patch.setattr(jobs.email.message, "text_header", lambda name, text: f"{name}: {text}")


@mutant
def forgets_all_clients_at_the_limit(patch: Patch) -> None:
    patch.setattr(RateLimiter, "_evict", lambda self, now_ns: self._full_at.clear())


@mutant
def never_forgets_a_client(patch: Patch) -> None:
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
def restores_without_a_marker(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.restore, "RESTORING", "leads.db.elsewhere")


@mutant
def restores_without_a_pause(patch: Patch) -> None:
    patch.setattr(models.outbox.actions, "pause", lambda *args: None)


@mutant
def forgets_idempotency_keys(patch: Patch) -> None:
    patch.setattr(models.intake, "find_key_records", lambda digests, now: {})
    patch.setattr(models.intake, "save_key_records", lambda tries, now: None)


@mutant
def keeps_keys_in_a_later_transaction(patch: Patch) -> None:
    keep = models.idempotency.save_key_records
    kept: list[tuple[Any, Any]] = []
    complete = models.storage.sqlite.writer.Writer._complete

    def keeping(self: models.storage.sqlite.writer.Writer, results: list[Any]) -> None:
        with models.storage.sqlite.connection.transaction():
            while kept:
                keep(*kept.pop())
        complete(self, results)

    patch.setattr(models.intake, "save_key_records", lambda tries, now: kept.append((tries, now)))
    patch.setattr(models.storage.sqlite.writer.Writer, "_complete", keeping)


@mutant
def restores_without_reading_back(patch: Patch) -> None:
    patch.setattr(models.storage.sqlite.restore, "truncate_wal", lambda: True)
    patch.setattr(models.storage.sqlite.restore, "read_back", lambda path: None)


@mutant
def opens_an_interrupted_creation_read_only(patch: Patch) -> None:
    inspect = models.storage.sqlite.inspect
    patch.setattr(inspect, "ask_to_recover", inspect.ask_in_use)


@mutant
def writes_the_log_on_the_event_loop(patch: Patch) -> None:
    patch.setattr(handlers.background_file, "in_background", lambda stream: stream)


def _change_failures(patch: Patch, kind: models.outbox.outcomes.FailureKind) -> None:
    """Let each failure of an adapter be of this kind."""
    init = jobs.dispatcher.KindWorker.__init__

    def changed(self: Any, name: str, adapter: Adapter, *rest: Any) -> None:
        class Changed(Adapter):
            async def deliver(self, context: DeliveryContext) -> str:
                try:
                    return await adapter.deliver(context)
                except DeliveryError as error:
                    raise DeliveryError(error.said, kind, hint=error.hint) from None

            def recipient(self, context: DeliveryContext) -> str | None:
                return adapter.recipient(context)

        init(self, name, Changed(), *rest)

    patch.setattr(jobs.dispatcher.KindWorker, "__init__", changed)


@mutant
def lays_every_refusal_at_the_destination(patch: Patch) -> None:
    _change_failures(patch, models.outbox.outcomes.FailureKind.UNREACHABLE)


@mutant
def gives_up_at_any_refusal(patch: Patch) -> None:
    _change_failures(patch, models.outbox.outcomes.FailureKind.PERMANENT)
