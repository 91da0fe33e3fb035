"""The bench's progress, on standard error."""

import sys


def show_progress(text: str) -> None:
    """Replace the progress line of a terminal; "" clears it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def log_round(number: int, rounds: int) -> None:
    """Print a line for each finished round where standard error is a file."""
    if not sys.stderr.isatty():
        print(f"round {number} of {rounds} done", file=sys.stderr, flush=True)
