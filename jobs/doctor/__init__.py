"""The doctor: every check of this machine, the database and the network. It changes nothing."""

from collections.abc import Callable

from jobs.doctor.machine import check_machine
from jobs.doctor.network import check_network
from jobs.doctor.postgresql import check_postgresql
from models.check_result import TITLES, CheckResult
from models.clock import Clock
from models.settings import Settings


def run_checks(settings: Settings, clock: Clock, progress: Callable[[str], None]) -> list[CheckResult]:
    """Run every check, and return the results in the order of `TITLES`. Raises nothing.

    progress: called with a few words before each step that may take seconds.
    """
    check = check_postgresql if settings.database_url else check_machine
    results = check(settings, clock, progress)
    progress("trying the mail server, the partner and the public URL")
    results += check_network(settings, clock)
    order = list(TITLES)
    return sorted(results, key=lambda result: order.index(result.id))
