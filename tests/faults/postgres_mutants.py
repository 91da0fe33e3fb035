"""Mutants of the storage on PostgreSQL, and of servers that share it."""

from collections.abc import Callable
from typing import Any

from mutants import Patch, mutant


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

    class AnyTimeline(str):
        __slots__ = ()

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    def asked(transaction_id: int, timeline: str, error: Exception) -> Any:
        return ask(transaction_id, AnyTimeline(timeline), error)

    patch.setattr(_transaction(), "_ask_outcome", asked)
