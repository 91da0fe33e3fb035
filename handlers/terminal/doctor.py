"""Owns the command that looks at everything and says what to do about it."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator

from handlers.terminal.arguments import Nouns, add_json, add_settings
from handlers.terminal.listing import answer, note, progress, say
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
    text = "check the data, the disk, the clock, the mail server and more, and say what to do"
    parser = nouns.add_parser(
        "doctor",
        help=text,
        description=text + "; nothing is changed or sent. Give it the settings that the server has.",
        allow_abbrev=False,
    )
    add_settings(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args, settings: _doctor(args, settings, run_checks))


def _doctor(args: argparse.Namespace, settings: Settings, run_checks: RunChecks) -> int | None:
    logging.disable()  # what a library would log of a failed connection, the finding says
    findings = run_checks(settings, Clock(), progress)
    for finding in findings:
        answer(finding.as_dict(), args.json, *_in_lines(finding))
    counts = f"{_count(findings, PROBLEM)}, {_count(findings, WARNING)}"
    sys.stdout.flush()
    if any(finding.state == PROBLEM for finding in findings):
        note(f"leads: {counts}")
        return PROBLEMS_FOUND
    if not args.json:
        say("", counts)
    return None


def _in_lines(finding: CheckResult) -> Iterator[str]:
    yield f"{finding.state:<{STATE_WIDTH}}{finding.title:<{CHECK_WIDTH}}{finding.found}"
    if finding.fix:
        yield f"{'':<{STATE_WIDTH + CHECK_WIDTH}}to do: {finding.fix}"


def _count(findings: list[CheckResult], state: str) -> str:
    number = sum(finding.state == state for finding in findings)
    return f"{number} {state}{'' if number == 1 else 's'}"
