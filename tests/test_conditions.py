import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from tlbench.evaluation import conditions
from tlbench.evaluation.conditions import watched
from tlbench.evaluation.device import Compute

CPU = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=2)
GPU = Compute(device=torch.device("cuda"), dtype=torch.float32, threads=2)


def times(**seconds: float) -> SimpleNamespace:
    names = ("user", "nice", "system", "irq", "softirq", "steal", "children_user", "children_system", "idle")
    return SimpleNamespace(**{**dict.fromkeys(names, 0.0), **seconds})


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Processor times and a clock that a test sets."""
    hands = SimpleNamespace(now=0.0, machine=times(), own=times())
    monkeypatch.setattr(conditions.time, "monotonic", lambda: hands.now)
    monkeypatch.setattr(psutil, "cpu_times", lambda: hands.machine)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: hands.own))
    return hands


def test_what_other_processes_take_is_told_without_our_own(clockwork: SimpleNamespace) -> None:
    with watched(CPU) as found:
        clockwork.now = 10.0
        clockwork.machine = times(user=25.0, system=5.0, steal=10.0, idle=100.0)
        clockwork.own = times(user=18.0, system=1.0, children_user=1.0)
    assert found.conditions.foreign_cores == pytest.approx(2.0)
    assert found.conditions.free_cores == 2.0
    assert found.conditions.load_average is not None
    assert found.conditions.throttled == ()


def test_a_machine_that_cannot_be_asked_is_unknown(clockwork: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    with watched(CPU) as found:
        clockwork.now = 1.0
    assert found.conditions.foreign_cores is None


def nvml(reasons: int, broken: bool = False) -> SimpleNamespace:
    """A library that sees a GPU which works at 1,980 MHz and then at 1,500."""
    clocks = iter([1980, 1500])

    def heat(*_: object) -> int:
        if broken:
            raise RuntimeError("not supported")
        return 80

    return SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlClocksEventReasonSwPowerCap=4,
        nvmlClocksEventReasonHwThermalSlowdown=64,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda handle, clock: next(clocks),
        nvmlDeviceGetTemperature=heat,
        nvmlDeviceGetPowerUsage=lambda handle: 350_500,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: reasons,
    )


@pytest.mark.parametrize(
    ("reasons", "told"), [(0, ()), (4, ()), (64, ("heat (hardware)",)), (68, ("heat (hardware)",))]
)
def test_a_throttled_gpu_is_told(monkeypatch: pytest.MonkeyPatch, reasons: int, told: tuple[str, ...]) -> None:
    """Pitfall 14; a power limit alone is how a GPU works under full load."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(reasons))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1"))
    with watched(GPU) as found:
        pass
    assert found.conditions.throttled == told
    assert found.conditions.sm_clock_mhz == (1980, 1500)
    assert found.conditions.power_w == (350.5, 350.5)


def test_a_sensor_that_a_gpu_lacks_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(0, broken=True))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1"))
    with watched(GPU) as found:
        pass
    assert found.conditions.temperature_c is None
    assert found.conditions.sm_clock_mhz == (1980, 1500)


def test_without_the_library_a_gpu_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with watched(GPU) as found:
        pass
    assert (found.conditions.sm_clock_mhz, found.conditions.throttled) == (None, ())
