"""Mutants of the storage on PostgreSQL, and of servers that share it."""

import asyncio.unix_events
import logging
from collections.abc import Callable
from typing import Any

from mutants import Patch, mutant

import jobs.leases
import models.outbox.outcomes


def _transaction() -> Any:
    from models.storage.postgres import transaction

    return transaction


@mutant
def commits_on_the_primary_alone(patch: Patch) -> None:
    from models.storage.postgres.connection import PostgresDatabase

    connect: Callable[[Any], Any] = PostgresDatabase._connect

    def without_the_standby(self: Any) -> Any:
        connection = connect(self)
        connection.execute("SET synchronous_commit = local")
        return connection

    patch.setattr(PostgresDatabase, "_connect", without_the_standby)


@mutant
def believes_another_timeline(patch: Patch) -> None:
    ask = _transaction()._ask_outcome

    class AnyHistory(str):
        __slots__ = ()

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    def asked(transaction_id: str, history: str, error: Exception) -> Any:
        return ask(transaction_id, AnyHistory(history), error)

    patch.setattr(_transaction(), "_ask_outcome", asked)


@mutant
def ends_at_once_when_it_is_told_to_stop(patch: Patch) -> None:
    # Without a handler SIGTERM ends the process.
    patch.setattr(
        asyncio.unix_events.SelectorEventLoop, "add_signal_handler", lambda *args: None, raising=False
    )


@mutant
def takes_over_no_claim(patch: Patch) -> None:
    patch.setattr(jobs.leases, "take_over", lambda seen, now: ([], set()))


@mutant
def settles_claims_that_it_has_lost(patch: Patch) -> None:
    patch.setattr(models.outbox.outcomes._Current, "is_of", lambda self, claimed: True)


@mutant
def takes_a_broken_commit_for_none(patch: Patch) -> None:
    patch.setattr(_transaction(), "_ask_outcome", lambda *args: False)


@mutant
def takes_a_broken_commit_for_made(patch: Patch) -> None:
    patch.setattr(_transaction(), "_ask_outcome", lambda *args: True)


@mutant
def repeats_nothing_after_a_conflict(patch: Patch) -> None:
    from models.storage.postgres.connection import PostgresDatabase

    patch.setattr(_transaction(), "is_conflict", lambda error: False)
    patch.setattr(PostgresDatabase, "lock", lambda self, keys: None)


def _writer() -> Any:
    from models.storage.postgres.writer import PostgresWriter

    return PostgresWriter


@mutant
def logs_each_refused_lead(patch: Patch) -> None:
    complete = _writer()._complete

    def logged(self: Any, results: Any) -> None:
        if self._lost is not None:
            logging.getLogger("leads.writer").error("storage failed")
        complete(self, results)

    patch.setattr(_writer(), "_complete", logged)


@mutant
def connects_no_more(patch: Patch) -> None:
    patch.setattr(_writer(), "_reconnect", lambda self: None)
