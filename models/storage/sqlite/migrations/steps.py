"""The steps of the schema, oldest first."""

from models.storage.sqlite.migrations import (
    v0001_initial,
    v0002_safe_retries,
    v0003_installation,
    v0004_suspicion,
    v0005_audit,
    v0006_real_forms,
)

STEPS = tuple(
    step.STATEMENTS
    for step in (
        v0001_initial,
        v0002_safe_retries,
        v0003_installation,
        v0004_suspicion,
        v0005_audit,
        v0006_real_forms,
    )
)
NEWEST = len(STEPS)
