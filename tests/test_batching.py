"""When a batch of writes begins, on a fast disk and on a slow one."""

import pytest

from models.storage.batching import COMMITS_AVERAGED, FAST_COMMIT_SECONDS, BatchPolicy

FAST, SLOW = FAST_COMMIT_SECONDS / 10, FAST_COMMIT_SECONDS * 5
START = 100.0  # on the loop's clock, in seconds


def policy(commit_seconds: float, previous_batch_size: int = 0) -> BatchPolicy:
    """Return a policy that has seen many commits of this length, and now gathers a batch."""
    made = BatchPolicy()
    for _ in range(10 * COMMITS_AVERAGED):
        made.note_commit(commit_seconds)
    made.note_answered(previous_batch_size)
    made.start_gathering(START)
    return made


def test_a_disk_is_slow_until_commits_are_fast() -> None:
    made = BatchPolicy()
    assert not made.disk_is_fast
    made.note_commit(0.0)
    assert not made.disk_is_fast
    for _ in range(COMMITS_AVERAGED):
        made.note_commit(0.0)
    assert made.disk_is_fast


def test_commits_up_to_the_limit_are_fast() -> None:
    assert policy(FAST_COMMIT_SECONDS * 0.99).disk_is_fast
    assert not policy(FAST_COMMIT_SECONDS * 1.01).disk_is_fast


def test_one_slow_commit_does_not_make_a_disk_slow() -> None:
    made = policy(FAST)
    made.note_commit(SLOW)
    assert made.disk_is_fast
    for _ in range(COMMITS_AVERAGED):
        made.note_commit(SLOW)
    assert not made.disk_is_fast


def test_a_fast_disk_never_cuts_gathering_short() -> None:
    assert not policy(FAST, previous_batch_size=2).has_gathered_enough(1_000, START + 60)


@pytest.mark.parametrize(("queued", "enough"), [(0, False), (1, False), (31, False), (32, True), (64, True)])
def test_a_slow_disk_waits_for_half_of_the_previous_batch(queued: int, enough: bool) -> None:
    assert policy(SLOW, previous_batch_size=64).has_gathered_enough(queued, START + 60) is enough


def test_half_of_an_odd_batch_is_rounded_up() -> None:
    made = policy(SLOW, previous_batch_size=5)
    assert [made.has_gathered_enough(queued, START + 60) for queued in (2, 3)] == [False, True]


def test_a_slow_disk_gathers_for_half_a_commit() -> None:
    made = policy(SLOW, previous_batch_size=2)
    assert not made.has_gathered_enough(2, START)
    assert not made.has_gathered_enough(2, START + SLOW * 0.49)
    assert made.has_gathered_enough(2, START + SLOW * 0.51)


def test_each_start_of_gathering_counts_anew() -> None:
    made = policy(SLOW)
    made.start_gathering(START + 1)
    assert not made.has_gathered_enough(1, START + 1)
    assert made.has_gathered_enough(1, START + 1 + SLOW)


def test_a_lone_write_waits_for_no_other_client() -> None:
    assert policy(SLOW, previous_batch_size=1).has_gathered_enough(1, START + SLOW)


def test_the_latest_batch_size_counts() -> None:
    made = policy(SLOW, previous_batch_size=64)
    made.note_answered(4)
    assert made.has_gathered_enough(2, START + 60)
