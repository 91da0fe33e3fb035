"""Amounts as text for people: durations and sizes."""

from datetime import timedelta


def duration_text(duration: timedelta) -> str:
    """Return a duration in the largest unit of which it has two or more: '26 hours'. The sign is ignored."""
    seconds = int(abs(duration.total_seconds()))
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def size_text(count: int) -> str:
    """Return a number of bytes in MB or GB: '1.2 MB'."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
