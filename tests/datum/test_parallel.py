"""Work spread over processes comes back in order, lazily, and without hiding errors."""

import itertools
import os
import signal

import pytest

from object_centric_bench.datum.parallel import ordered_map
from object_centric_bench.datum.record import DataError


def square(number):
    return number * number


def refuse_30(number):
    if number == 30:
        raise DataError("no 30")
    return number


def die_at_30(number):
    if number == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers):
    assert list(ordered_map(square, range(100), workers)) == [number * number for number in range(100)]
    assert list(ordered_map(square, [], workers)) == []


def test_items_are_read_only_a_little_ahead():
    items = itertools.count()
    results = ordered_map(square, items, 1)
    assert list(itertools.islice(results, 5)) == [0, 1, 4, 9, 16]
    results.close()
    assert next(items) < 100


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_after_the_results_before_them(workers):
    results = ordered_map(refuse_30, range(100), workers)
    assert list(itertools.islice(results, 24)) == list(range(24))
    with pytest.raises(DataError, match="no 30"):
        list(results)


def test_a_dead_worker_is_an_error_and_not_a_wait():
    with pytest.raises(DataError, match="worker process died"):
        list(ordered_map(die_at_30, range(100), 2))
