"""The steps of the schema, oldest first."""

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from models.storage.sqlite.migrations import (
    v0001_initial,
    v0002_safe_retries,
    v0003_installation,
    v0004_suspicion,
    v0005_audit,
    v0006_real_forms,
    v0007_addressed_mail,
    v0008_leases,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schema. convert: what SQL can't do; it runs after the statements."""

    statements: str
    convert: Callable[[apsw.Connection], None] | None = None


STEPS = (
    Step(v0001_initial.STATEMENTS),
    Step(v0002_safe_retries.STATEMENTS),
    Step(v0003_installation.STATEMENTS),
    Step(v0004_suspicion.STATEMENTS),
    Step(v0005_audit.STATEMENTS),
    Step(v0006_real_forms.STATEMENTS, v0006_real_forms.convert),
    Step(v0007_addressed_mail.STATEMENTS),
    Step(v0008_leases.STATEMENTS),
)
NEWEST = len(STEPS)
