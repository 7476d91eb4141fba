"""Runs with a given number of threads, whatever the size of the work."""

from contextlib import contextmanager

from convolt import get_num_threads, set_num_threads
from convolt.kernels.cpu import pool

NUMBERS = (1, 2, 3, 7)


@contextmanager
def threads(count):
    """Have each parallel loop cut into parts for ``count`` threads, even the smallest."""
    before = get_num_threads(), pool.alone_if_small
    set_num_threads(count)
    pool.alone_if_small = False
    try:
        yield
    finally:
        set_num_threads(before[0])
        pool.alone_if_small = before[1]


def results_by_threads(run):
    """Return what ``run()`` gives with each of NUMBERS of threads."""
    results = []
    for count in NUMBERS:
        with threads(count):
            results.append(run())
    return results
