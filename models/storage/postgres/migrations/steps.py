"""The steps of the schema on PostgreSQL, oldest first.

Servers of two versions run beside each other during an upgrade. So a step only adds (expand): columns and
tables that an older program does without. What is no longer used is removed a version later (contract).
"""

from dataclasses import dataclass

from models.storage.postgres.migrations import v0008_initial


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schema. works_with: the oldest schema whose program can use the result."""

    version: int
    statements: str
    works_with: int


STEPS = (Step(8, v0008_initial.STATEMENTS, works_with=8),)
NEWEST = STEPS[-1].version
