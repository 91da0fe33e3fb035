"""The bench's command: measure the rows in rounds, and print a table.

python bench/run.py                     every row, in five rounds, beside bare Tornado
python bench/run.py rate-64 lone ...    these rows alone; --list names them
python bench/run.py --against DIR       this checkout and another one, in turns
--rounds N --json
"""

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from processes import ROOT
from progress import log_round, show_progress
from rows import ROWS, Bench, NotMeasurable, Round
from table import HEAD, HEAD_AGAINST, Findings, Result, line, line_against, machine


def measure(results: Sequence[Result], rounds: int, against: Path | None) -> None:
    """Measure these rows, so many rounds of each.

    against: another checkout. In each round each row is measured for both, in random order, so that a machine
    that speeds up or slows down favours neither.
    """
    current_round: Round = {}
    with ExitStack() as stack:

        def bench(checkout: Path) -> Bench:
            folder = tempfile.TemporaryDirectory(prefix="leads-bench-", dir=ROOT.parent)
            return Bench(checkout, Path(stack.enter_context(folder)), current_round)

        here, other = bench(ROOT), bench(against) if against else None
        for number in range(rounds):
            current_round.clear()
            for result in results:
                if result.not_measured or number >= (result.row.rounds or rounds):
                    continue
                show_progress(f"round {number + 1} of {rounds}: {result.row.about} ...")
                turns = [(here, result.here)] + ([(other, result.against)] if other else [])
                _measure_in_turns(result, random.sample(turns, len(turns)))
            log_round(number + 1, rounds)


def _measure_in_turns(result: Result, turns: Sequence[tuple[Bench, Findings]]) -> None:
    try:
        figures = [result.row.measure(bench) for bench, _ in turns]
    except NotMeasurable as reason:
        result.not_measured = str(reason)
        return
    for (_, findings), figure in zip(turns, figures, strict=True):
        findings.figures.append(figure)


def at_least_one(text: str) -> int:
    """Parse a number of rounds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1 up")
    return int(text)


def a_checkout(text: str) -> Path:
    """Parse the folder of a checkout."""
    if not (Path(text) / "server.py").is_file():
        raise argparse.ArgumentTypeError(f"there is no server.py in {text}")
    return Path(text).resolve()


def interrupt(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: stop the processes, remove the folders, and print the finished rounds."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure the rows and print them. Return 0 if every goal was met, 1 if not, 130 after an interrupt.

    With --against no goal is judged.
    """
    parser = argparse.ArgumentParser(description="Measure the server beside bare Tornado.")
    parser.add_argument("names", nargs="*", metavar="ROW", help="measure these rows only; --list names them")
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument(
        "--against", type=a_checkout, metavar="DIR", help="compare with the server of another checkout"
    )
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; see --list")
    if args.list:
        for each in ROWS.values():
            print(f"{each.name:<15}{each.about}")
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    results = [Result(ROWS[name]) for name in args.names or ROWS]
    interrupted = False
    try:
        measure(results, args.rounds, args.against)
    except KeyboardInterrupt:
        interrupted = True
    show_progress("")
    if not args.json:
        print(f"{machine([ROOT, args.against] if args.against else [ROOT])}\n")
        print(HEAD_AGAINST if args.against else HEAD)
    as_line = line_against if args.against else line
    for result in results:
        if result.here.figures or result.not_measured:
            print(json.dumps(result.as_dict()) if args.json else as_line(result))
    if interrupted:
        rounds = max((len(result.here.figures) for result in results), default=0)
        done = "these are the rounds that were done" if rounds else "no round was done"
        print(f"interrupted; {done}", file=sys.stderr)
        return 130
    missed = [result.row.name for result in results if result.met is False and not args.against]
    if missed:
        print(f"not met: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
