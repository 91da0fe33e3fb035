"""The command that checks the installation and says what to fix."""

import logging
import sys
from collections.abc import Callable, Iterator

from handlers.terminal.arguments import CommandContext, Nouns, add_json, add_settings
from handlers.terminal.output import note, print_result, progress, say
from models.check_result import OK, PROBLEM, TITLES, WARNING, CheckResult
from models.clock import Clock
from models.settings import Settings

PROBLEMS_FOUND = 1  # the exit status
STATE_WIDTH = 2 + max(map(len, (OK, WARNING, PROBLEM)))
CHECK_WIDTH = 2 + max(map(len, TITLES.values()))

Progress = Callable[[str], None]
RunChecks = Callable[[Settings, Clock, Progress], list[CheckResult]]


def add_command(nouns: Nouns, run_checks: RunChecks) -> None:
    """Add `doctor` to the parser. run_checks: `jobs.doctor.run_checks`, which handlers may not import."""
    text = "check the data, the disk, the clock, the mail server and more, and say what to fix"
    parser = nouns.add_parser(
        "doctor",
        help=text,
        description=text + "; it changes and sends nothing. Give it the server's settings.",
        allow_abbrev=False,
    )
    add_settings(parser)
    add_json(parser)
    parser.set_defaults(run=lambda context: _doctor(context, run_checks))


def _doctor(context: CommandContext, run_checks: RunChecks) -> int | None:
    logging.disable()  # a result says what a library would log of a failed connection
    results = run_checks(context.settings, context.clock, progress)
    for result in results:
        print_result(result.as_dict(), context.args.json, *_in_lines(result))
    counts = f"{_count(results, PROBLEM)}, {_count(results, WARNING)}"
    sys.stdout.flush()
    if any(result.state == PROBLEM for result in results):
        note(f"leads: {counts}")
        return PROBLEMS_FOUND
    if not context.args.json:
        say("", counts)
    return None


def _in_lines(result: CheckResult) -> Iterator[str]:
    yield f"{result.state:<{STATE_WIDTH}}{result.title:<{CHECK_WIDTH}}{result.found}"
    if result.fix:
        yield f"{'':<{STATE_WIDTH + CHECK_WIDTH}}to do: {result.fix}"


def _count(results: list[CheckResult], state: str) -> str:
    number = sum(result.state == state for result in results)
    return f"{number} {state}{'' if number == 1 else 's'}"
