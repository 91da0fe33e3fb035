"""The doctor: every check there is, of this machine, the database and the network. It changes nothing."""

from collections.abc import Callable

from jobs.doctor.machine import check_machine
from jobs.doctor.network import check_network
from models.check_result import CHECKS, CheckResult
from models.clock import Clock
from models.settings import Settings


def run_checks(settings: Settings, clock: Clock, progress: Callable[[str], None]) -> list[CheckResult]:
    """Run every check, and return what each found, in the order of `CHECKS`. Raises nothing."""
    results = check_machine(settings, clock, progress)
    progress("trying the mail server, the partner and the public URL")
    results += check_network(settings, clock)
    return sorted(results, key=lambda result: CHECKS.index(result.check))
