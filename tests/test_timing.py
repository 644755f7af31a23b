import pytest

from speeds import record
from tlbench.evaluation.timing import Stopwatch, latency, offline, single_stream, warm_up
from tlbench.speed import UNSTEADY, Throughput


class Device:
    """A device with a clock of its own: a call costs `cost_s(number of the call)` on it."""

    def __init__(self, cost_s, asynchronous=False):
        self.cost_s, self.asynchronous = cost_s, asynchronous
        self.now = self.pending = 0.0
        self.calls = 0

    def call(self):
        cost = self.cost_s(self.calls)
        self.calls += 1
        if self.asynchronous:
            self.now += 1e-6
            self.pending += cost
        else:
            self.now += cost

    def wait(self):
        self.now, self.pending = self.now + self.pending, 0.0

    def stopwatch(self, waits=True):
        return Stopwatch(clock=lambda: self.now, wait=self.wait if waits else lambda: None)


def test_slow_first_calls_are_warm_up_and_no_latency() -> None:
    """Pitfall 10."""
    device = Device(lambda number: 0.1 if number < 5 else 0.001)
    warm = warm_up(device.call, device.stopwatch(), most_s=10)
    assert warm.settled
    assert warm.seconds > 0.5
    found = single_stream(device.call, device.stopwatch(), calls=200, most_s=10)
    assert found.p90_ms == pytest.approx(1)
    assert found.moved < UNSTEADY


def test_without_warm_up_the_same_calls_show() -> None:
    device = Device(lambda number: 0.1 if number < 25 else 0.001)
    assert single_stream(device.call, device.stopwatch(), calls=200, most_s=10).p90_ms == pytest.approx(100)


def test_latency_that_never_settles_is_told() -> None:
    device = Device(lambda number: 0.001 * 1.01**number)
    warm = warm_up(device.call, device.stopwatch(), most_s=0.5)
    assert not warm.settled
    assert warm.seconds >= 0.5
    assert single_stream(device.call, device.stopwatch(), calls=100, most_s=100).moved > 0.5


def test_every_call_is_waited_for() -> None:
    """Pitfall 11: without, a device that works behind the caller's back looks infinitely fast."""
    device = Device(lambda _: 0.01, asynchronous=True)
    assert single_stream(device.call, device.stopwatch(), calls=40, most_s=10).p50_ms == pytest.approx(10, 1e-3)
    assert offline(device.call, device.stopwatch(), 5, 0.2, 10).per_s == pytest.approx(100, 1e-3)
    careless = single_stream(device.call, device.stopwatch(waits=False), calls=40, most_s=10)
    assert careless.p50_ms < 0.01
    assert (
        "disagree"
        in record(latency=careless, throughput=(Throughput(batch=1, per_s=100, iqr_relative=0, blocks=5),)).doubts[0]
    )


def test_a_slow_model_settles_in_fewer_calls() -> None:
    device = Device(lambda number: 1.0 if number < 2 else 0.25)
    warm = warm_up(device.call, device.stopwatch(), most_s=10)
    assert warm.settled
    assert 6 <= warm.calls <= 8
    quick = Device(lambda _: 0.001)
    assert warm_up(quick.call, quick.stopwatch(), most_s=10).calls == 20


def test_a_slow_model_makes_fewer_calls_but_enough_for_its_90th_percentile() -> None:
    device = Device(lambda _: 1.0)
    assert warm_up(device.call, device.stopwatch(), most_s=0.1).calls == 2
    found = single_stream(device.call, device.stopwatch(), calls=200, most_s=5)
    assert found.calls == 30
    assert found.p90_ms == pytest.approx(1000)


@pytest.mark.parametrize(
    ("calls", "p90", "p99"), [(28, False, False), (29, True, False), (298, True, False), (299, True, True)]
)
def test_a_percentile_is_told_where_calls_bound_it(calls: int, p90: bool, p99: bool) -> None:
    """1 - 0.9^28 = 0.948 and 1 - 0.9^29 = 0.953; likewise 298 and 299 for 0.99."""
    found = latency([0.001] * calls)
    assert (found.p90_ms is not None, found.p99_ms is not None) == (p90, p99)
    assert 1 - 0.9**28 < 0.95 < 1 - 0.9**29
    assert 1 - 0.99**298 < 0.95 < 1 - 0.99**299


def test_latency_is_that_of_numpy_and_statistics() -> None:
    found = latency([number / 1000 for number in range(1, 102)])
    assert (found.p50_ms, found.p90_ms, found.mean_ms, found.calls) == (51, 91, 51, 101)
    assert found.std_ms == pytest.approx(29.3, abs=0.01)
    assert found.moved == pytest.approx(76 / 25.5 - 1)


def test_blocks_are_filled_and_their_spread_is_told() -> None:
    device = Device(lambda number: 0.01 if number < 25 else 0.02)
    found = offline(device.call, device.stopwatch(), blocks=5, block_s=0.05, most_s=10)
    assert found.count == 5
    assert device.calls == 2 + 5 * 5
    assert found.per_s == pytest.approx(100)
    slow = Device(lambda _: 1.0)
    assert offline(slow.call, slow.stopwatch(), blocks=9, block_s=0.05, most_s=2).count == 3
    uneven = Device(lambda number: 0.1 * (number + 1))
    assert offline(uneven.call, uneven.stopwatch(), blocks=5, block_s=0.0, most_s=100).iqr_relative > 0.2
