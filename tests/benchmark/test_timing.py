"""Statistics by hand, and what is timed by a clock that we turn ourselves."""

import pytest

from ssdlite.benchmark.timing import Timing, interleave, measure, quantile, quotients, reading


class FakeClock:
    """Moves when work is done only."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, *durations):
        """A piece of work that lasts each of `durations` in turn, then the last one again and again."""
        left = list(durations)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_median_and_quartiles():
    # sorted 1 2 3 4: the median lies half-way from 2 to 3, the quartiles at .75 and 2.25 steps from 1
    assert Timing.of([4, 1, 3, 2]) == Timing(2.5, 1.75, 3.25, 4)
    assert Timing.of([7]) == Timing(7, 7, 7, 1)
    assert quantile([0, 10], 0.95) == pytest.approx(9.5)


def test_warm_up_does_not_count():
    clock = FakeClock()
    assert measure(clock.work(50, 40, 1, 2, 3), warmup=2, runs=3, clock=clock) == [1, 2, 3]


def test_runs_go_on_until_they_have_lasted_long_enough():
    clock = FakeClock()
    assert measure(clock.work(2), warmup=0, runs=1, min_seconds=5, clock=clock) == [2, 2, 2]
    assert measure(clock.work(2), warmup=0, runs=4, min_seconds=5, clock=clock) == [2, 2, 2, 2]


def test_a_reading_waits_for_the_device_before_and_after():
    clock = FakeClock()
    waits = []

    def synchronize():
        waits.append(clock.now)
        clock.now += 1  # what is still going on: before the start it is not ours, at the end it is

    read = reading(clock.work(10, 20), repeats=2, synchronize=synchronize, clock=clock)
    assert read() == (10 + 20 + 1) / 2
    assert waits == [100, 131]


def test_turns_alternate():
    order = []

    def step(name, seconds):
        def run():
            order.append(name)
            return seconds.pop(0)

        return run

    times = interleave({"a": step("a", [9, 2, 4]), "b": step("b", [9, 1, 8])}, warmup=1, runs=2)
    assert order == list("ababab")
    assert times == {"a": [2, 4], "b": [1, 8]}
    assert quotients(times["a"], times["b"]) == [2, 0.5]
