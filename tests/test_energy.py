"""Energy: joules as the meters count them, and None wherever they do not."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tlbench.evaluation import energy
from tlbench.evaluation.energy import LEAST_S, MOST_W, Energy, Meter, open_meter

UNKNOWN = {"energy_j": None, "energy_source": None}
GPU = torch.device("cuda:0")
CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_meter_is_remembered() -> Iterator[None]:
    open_meter.cache_clear()
    yield
    open_meter.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(energy, "time", clock)
    return clock


def meter(*readings: Sequence[float], ranges: Sequence[float] = (math.inf,), source: str = "nvml") -> Meter:
    coming = iter(readings)
    return Meter(source=source, read=lambda: next(coming), ranges=ranges)


def test_joules_are_the_difference_of_two_readings(clock: Clock) -> None:
    window = Energy(meter([500.0], [623.5]))
    clock.now += LEAST_S
    assert window.counted() == {"energy_j": 123.5, "energy_source": "nvml"}


def test_counters_of_several_packages_add_up(clock: Clock) -> None:
    window = Energy(meter([1.0, 10.0], [4.0, 15.0], ranges=(1e5, 1e5), source="rapl"))
    clock.now += 2
    assert window.counted() == {"energy_j": 8.0, "energy_source": "rapl"}


def test_a_counter_that_started_again_is_read_on(clock: Clock) -> None:
    window = Energy(meter([64_990.0], [15.0], [65_000.0], [20.0], ranges=(65_536.0,)))
    for _ in range(2):
        clock.now += 100
        window.look()
    clock.now += 100
    assert window.counted()["energy_j"] == pytest.approx(561 + 64_985 + 556)


@pytest.mark.parametrize(("pause_s", "known"), [(65_536 / MOST_W - 1, True), (65_536 / MOST_W + 1, False)])
def test_a_counter_that_may_have_started_again_twice_tells_nothing(clock: Clock, pause_s: float, known: bool) -> None:
    window = Energy(meter([0.0], [100.0], [200.0], ranges=(65_536.0,)))
    clock.now += pause_s
    window.look()
    clock.now += 2
    assert window.counted() == ({"energy_j": 200.0, "energy_source": "nvml"} if known else UNKNOWN)


def test_a_window_that_is_too_short_tells_nothing(clock: Clock) -> None:
    window = Energy(meter([500.0], [510.0]))
    clock.now += LEAST_S - 0.01
    assert window.counted() == UNKNOWN


@pytest.mark.parametrize("last", [500.0, 400.0])
def test_a_counter_that_stands_still_or_goes_back_tells_nothing(clock: Clock, last: float) -> None:
    window = Energy(meter([500.0], [last]))
    clock.now += 5
    assert window.counted() == UNKNOWN


def test_without_a_meter_nothing_is_known(clock: Clock) -> None:
    window = Energy(None)
    clock.now += 5
    window.look()
    assert window.counted() == UNKNOWN


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_meter_that_fails_at_any_reading_tells_nothing(clock: Clock, good: int) -> None:
    readings = iter(range(100, 100 + good))

    def read() -> Sequence[float]:
        for reading in readings:
            return [float(reading)]
        raise RuntimeError("the driver is gone")

    window = Energy(Meter(source="nvml", read=read, ranges=[math.inf]))
    clock.now += 3
    window.look()
    clock.now += 3
    assert window.counted() == UNKNOWN


# NVML


class FakeNvml(SimpleNamespace):
    """What of the library is used; its counter moves by a kilojoule at each reading."""

    def __init__(self) -> None:
        super().__init__(asked=[], millijoules=7_000_000)

    def nvmlInit(self) -> None:
        self.asked.append("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return f"handle of {uuid}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "handle of GPU-12ab"
        self.millijoules += 1_000_000
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    return fake


def test_a_gpu_is_found_by_its_own_name_and_its_millijoules_are_joules(nvml: FakeNvml, clock: Clock) -> None:
    """Numbers are CUDA's, which may be let see some of the GPUs only."""
    window = Energy(open_meter(GPU))
    clock.now += 3
    assert window.counted() == {"energy_j": 1000.0, "energy_source": "nvml"}
    open_meter(GPU)
    assert nvml.asked == ["init", "GPU-12ab"]


@pytest.mark.parametrize("what", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_cannot_be_read_has_no_meter(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("not supported")

    monkeypatch.setattr(FakeNvml, what, fail)
    assert open_meter(GPU) is None


def test_without_the_library_a_gpu_has_no_meter(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_meter(GPU) is None


def test_the_library_has_what_is_asked_of_it() -> None:
    library = pytest.importorskip("pynvml")
    asked = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert len(asked) == 3
    assert all(callable(getattr(library, name)) for name in asked)


# RAPL


def powercap(folder: Path, **zones: tuple[str, int, int]) -> Path:
    for zone, (name, used, most) in zones.items():
        path = folder / zone.replace("_", ":").replace("intel:", "intel-")
        path.mkdir()
        for file, value in (("name", name), ("energy_uj", used), ("max_energy_range_uj", most)):
            (path / file).write_text(f"{value}\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two processor packages, with a part and a whole that must not be counted besides."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return powercap(
        tmp_path,
        intel_rapl_0=("package-0", 1_000_000, 65_536_000_000),
        intel_rapl_0_0=("core", 900_000, 65_536_000_000),
        intel_rapl_1=("package-1", 65_535_000_000, 65_536_000_000),
        intel_rapl_2=("psys", 1, 65_536_000_000),
    )


def test_processor_packages_are_read_and_nothing_twice(packages: Path, clock: Clock) -> None:
    window = Energy(open_meter(CPU))
    (packages / "intel-rapl:0" / "energy_uj").write_text("26000000\n")
    (packages / "intel-rapl:1" / "energy_uj").write_text("4000000\n")  # it started again
    (packages / "intel-rapl:0:0" / "energy_uj").write_text("990000000\n")
    clock.now += 10
    assert window.counted() == {"energy_j": pytest.approx(25 + 5), "energy_source": "rapl"}


@pytest.mark.parametrize("broken", [
    lambda folder: (folder / "intel-rapl:0" / "energy_uj").unlink(),
    lambda folder: (folder / "intel-rapl:0" / "energy_uj").write_text("?"),
    lambda folder: (folder / "intel-rapl:0" / "name").unlink(),
])  # fmt: skip
def test_packages_that_cannot_be_read_are_no_meter(packages: Path, broken: Callable[[Path], Any]) -> None:
    """As root alone may on most machines."""
    broken(packages)
    assert open_meter(CPU) is None


def test_a_machine_without_counters_has_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        monkeypatch.setattr(energy, "POWERCAP", folder)
        open_meter.cache_clear()
        assert open_meter(CPU) is None


# What nobody notices


def test_no_word_no_thread_and_no_process_comes_of_it(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    threads, processes = threading.active_count(), _processes()
    for device in (CPU, GPU):  # of this machine, whatever it has
        open_meter.cache_clear()
        Energy(open_meter(device)).counted()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert threading.active_count() == threads
    assert _processes() == processes


def _processes() -> set[int]:
    """Those that this one started, by this test or one before it."""
    return {child.pid for child in psutil.Process().children()}
