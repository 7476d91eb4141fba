import math

import numpy as np
import pytest


@pytest.fixture(scope="module")
def measure(load):
    return load("measure")


def test_times_are_medians_of_interleaved_turns(measure, monkeypatch):
    clock = 0.0
    order = []

    def takes(name, times_s):
        times = iter(times_s)

        def call():
            nonlocal clock
            order.append(name)
            clock += next(times)

        return call

    monkeypatch.setattr(measure, "perf_counter", lambda: clock)
    monkeypatch.setattr(measure, "sleep", lambda _: None)
    # Two calls to begin with; then a turn is one call that wakes and, at 1 s each, one timed.
    ours = takes("ours", [9, 1, 9, 3, 9, 100, 9, 2])
    peer = takes("peer", [9, 1, 9, 7, 9, 5, 9, 6])
    assert measure.interleaved([ours, peer], repeats=3) == [3, 6]
    assert order == ["ours"] * 2 + ["peer"] * 2 + (["ours"] * 2 + ["peer"] * 2) * 3


def test_short_calls_are_timed_often(measure, monkeypatch):
    clock, calls = 0.0, 0

    def call():
        nonlocal clock, calls
        calls += 1
        clock += measure.TURN_S / 10

    monkeypatch.setattr(measure, "perf_counter", lambda: clock)
    monkeypatch.setattr(measure, "sleep", lambda _: None)
    assert measure.interleaved([call], repeats=2) == pytest.approx([measure.TURN_S / 10])
    assert 2 + 2 * 10 <= calls <= 4 + 2 * 12


def test_ratio_and_geometric_mean(measure):
    assert measure.ratio(ours_s=2.0, peer_s=3.0) == 1.5
    assert measure.ratio(ours_s=2.0, peer_s=None) is None
    assert measure.geomean([0.5, 2.0]) == pytest.approx(1.0)
    assert measure.geomean([4.0, None]) == pytest.approx(4.0)
    assert measure.geomean([None]) is None


def test_worst_error_is_a_share_of_the_bound(measure):
    magnitude = np.array([1.0, 10.0], np.float32)
    bound = 8 * 2.0**-24 * math.sqrt(25) * magnitude
    ref = np.array([0.0, 0.0], np.float32)
    got = (bound * [0.25, 0.5]).astype(np.float32)
    assert measure.worst_error(got, ref, magnitude, 25) == pytest.approx(0.5)
    assert measure.worst_error(ref, ref, magnitude, 25) == 0
    assert math.isnan(measure.worst_error(ref * np.nan, ref, magnitude, 25))
