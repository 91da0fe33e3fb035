"""When a batch of writes begins: arithmetic on sizes and times, without I/O or a clock."""

FAST_COMMIT_SECONDS = 0.003  # up to here the loop waits for a commit: handing it to a thread costs 0.13 ms
COMMITS_AVERAGED = 8
LINGER_SECONDS = 0.005  # how long a lingering write waits for another one's commit


class BatchPolicy:
    """Decides whether the queued writes begin now, or wait for more.

    On a fast disk a batch begins once no more writes arrive. On a slow disk it begins earlier: when half as
    many writes are queued as the previous batch had. The loop reads the other half while the disk is busy.
    """

    def __init__(self) -> None:
        self.urgent = False  # a queued write does not linger
        self._previous_batch_size = 0  # with the writes that were queued when it was answered
        self._gather_until = 0.0
        # A moving average. A disk counts as slow until it has shown that it is fast.
        self._commit_seconds = 2 * FAST_COMMIT_SECONDS

    @property
    def disk_is_fast(self) -> bool:
        """True if a commit is so short that the loop may wait for it."""
        return self._commit_seconds <= FAST_COMMIT_SECONDS

    def note_commit(self, seconds: float) -> None:
        """Take the time of one more commit into the average."""
        self._commit_seconds += (seconds - self._commit_seconds) / COMMITS_AVERAGED

    def note_answered(self, writes: int) -> None:
        """Take note of how many writes were answered or queued when a batch was over."""
        self._previous_batch_size = writes

    def start_gathering(self, now: float) -> None:
        """Start to gather a batch, at this time of the loop's clock in seconds."""
        self._gather_until = now + self._commit_seconds / 2

    def has_gathered_enough(self, queued: int, now: float) -> bool:
        """True if the batch begins now, although more writes may arrive: the disk is slow."""
        return not self.disk_is_fast and 2 * queued >= self._previous_batch_size and now > self._gather_until
