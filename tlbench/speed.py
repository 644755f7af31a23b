"""Speed records: how fast a deployed model is, on which machine, run in which way, and whether to believe it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

from tlbench.trial import Reference, canonical_json

PROTOCOL = 2
"""Version of how speed is measured: raised when a record would get other figures than before."""

UNSTEADY = 0.03
"""Most that the median of the second half of the calls may differ from that of the first."""

DRIFT = 0.05
"""Most that the reference model's latency may differ between before and after."""

DISAGREEMENT = 0.15
"""Most that throughput at batch 1 times median latency may differ from 1: a clock that does not wait for the device
shows here (pitfall 11)."""

BATCH = 8
"""Of the throughput that boards show and limits are about."""

FOREIGN_CORES = 0.25
"""Cores that other processes may take beyond those that are free anyway."""


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A deployed model, as far as its speed depends on it: its operations, not the values of its weights."""

    backbone: Reference
    declared: tuple[Mapping[str, Any], ...] = ()
    """As in `tlbench.trial.Trial`."""

    preprocess: Mapping[str, Any]
    pool: str
    head: Mapping[str, Any]
    """What rebuilds the head; its class and number of elements where a plugin made one of its own."""

    inputs: Mapping[str, Sequence[int]]
    """Shape of one sample's inputs by name."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subject:
        """The subject that `dataclasses.asdict` wrote."""
        declared = tuple(value["declared"])
        return cls(**{**value, "backbone": Reference(**value["backbone"]), "declared": declared})


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """Machine and way of running: speeds can be compared only where all of this agrees (pitfalls 12, 13, 15)."""

    machine: Mapping[str, Any]
    """What computes: processor and cores, and on a GPU its name, driver and CUDA."""

    device: str
    """`cpu` or `cuda`."""

    dtype: str
    """As observed: `float32`, `tf32`, `bfloat16` or `float16`."""

    layout: str
    """`contiguous` or `channels_last`."""

    compile: str
    """`none`, or the mode of `torch.compile`."""

    runtime: str
    """`torch` or `onnxruntime`, with its version."""

    threads: int

    @property
    def key(self) -> str:
        """8 hexadecimal digits that stand for the setting."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:8]

    @property
    def place(self) -> str:
        """The machine on one line: its GPU, or its processor and how many threads of it."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return str(self.machine.get("gpu") or f"{self.machine.get('processor') or 'CPU'}, {threads}")

    @property
    def in_words(self) -> str:
        """The setting on one line."""
        layout = [] if self.layout == "contiguous" else [self.layout.replace("_", " ")]
        compiled = [] if self.compile == "none" else [f"compiled ({self.compile})"]
        return ", ".join([self.place, self.dtype, *layout, *compiled, self.runtime])


@final
@dataclass(frozen=True, kw_only=True)
class Latency:
    """Single stream: one sample after the other, each waited for, in milliseconds."""

    p50_ms: float
    p90_ms: float | None
    """None below 29 calls: no one-sided 95 % bound of it exists."""

    p99_ms: float | None
    """None below 299 calls, likewise."""

    mean_ms: float
    std_ms: float
    calls: int
    moved: float
    """How much the median of the second half of the calls differs from that of the first, as a fraction."""


@final
@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Offline: one batch after the other, waited for at the end of every block of batches."""

    batch: int
    per_s: float | None
    """Samples per second, the median of the blocks; None where the batch did not run."""

    iqr_relative: float | None
    """Range between the quartiles of the blocks, divided by their median."""

    blocks: int
    failure: str | None = None
    """Why the batch did not run: no smaller one takes its place (pitfall 9)."""


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What went on on the machine while it was measured. Unknown is None."""

    load_average: float | None = None
    """Of one minute, before the first call."""

    foreign_cores: float | None = None
    """Cores that other processes kept busy, on average."""

    free_cores: float | None = None
    """Cores of the machine beyond the threads that were measured with."""

    throttled: Sequence[str] = ()
    """Why the GPU was kept below its clock, in NVML's words."""

    sm_clock_mhz: Sequence[int] | None = None
    """Before and after, as the next two."""

    temperature_c: Sequence[int] | None = None
    power_w: Sequence[float] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """One deployed model measured in one setting."""

    subject: Subject
    setting: Setting
    libraries: Mapping[str, str | None]
    """Versions of what the model may be made of."""

    latency: Latency
    latency_with_preprocess: Latency | None = None
    """With a raw sample's preprocessing; None where no raw sample of the modality can be made up."""

    preprocess_ms: float | None = None
    """Median time that the preprocessing of one raw sample takes alone."""

    throughput: Sequence[Throughput] = ()
    settled: bool
    """Whether the warm-up ended because latency had settled, not because its time was over."""

    warm_up: Mapping[str, float]
    """`calls` and `seconds`."""

    reference_ms: Sequence[float]
    """Latency of the same small network before and after."""

    conditions: Conditions
    complexity: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    """In MiB: `weights`; of a GPU by batch `peak_allocated`, by the model alone, and `peak_reserved`, by the process;
    of a fresh process `peak_resident` and `added_resident`, what that exceeds the libraries' own by."""

    cold: Mapping[str, Any] = field(default_factory=dict)
    """Of a fresh process: `import_s`, `load_s`, `first_ms`."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    protocol: int = PROTOCOL

    @property
    def key(self) -> str:
        """The cost key: 16 hexadecimal digits of the sha256 over model, setting, versions and protocol."""
        return cost_key(self.subject, self.setting, self.libraries, self.protocol)

    @property
    def doubts(self) -> list[str]:
        """Every reason not to believe the figures."""
        return list(_doubts(self))

    @property
    def speed_ok(self) -> bool:
        """Whether nothing speaks against the figures."""
        return not self.doubts

    def throughput_at(self, batch: int) -> float | None:
        """Samples per second with this batch size, where it ran."""
        return next((one.per_s for one in self.throughput if one.batch == batch), None)

    def to_json(self) -> dict[str, Any]:
        """JSON of everything, with what readers would have to work out."""
        return {"key": self.key, "speed_ok": self.speed_ok, "doubts": self.doubts, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SpeedRecord:
        """The record that `to_json` wrote."""
        fields = {name: item for name, item in value.items() if name not in ("key", "speed_ok", "doubts")}
        fields["subject"] = Subject.from_json(value["subject"])
        fields["setting"] = Setting(**value["setting"])
        fields["latency"] = Latency(**value["latency"])
        with_preprocess = value["latency_with_preprocess"]
        fields["latency_with_preprocess"] = with_preprocess and Latency(**with_preprocess)
        fields["throughput"] = tuple(Throughput(**one) for one in value["throughput"])
        fields["conditions"] = Conditions(**value["conditions"])
        return cls(**fields)


def cost_key(subject: Subject, setting: Setting, libraries: Mapping[str, str | None], protocol: int = PROTOCOL) -> str:
    """The key of a measured or still to be measured record."""
    identity = {"subject": asdict(subject), "setting": asdict(setting), "libraries": libraries, "protocol": protocol}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def _doubts(record: SpeedRecord) -> Iterable[str]:
    if not record.settled:
        yield "latency had not settled when the warm-up ended"
    if record.latency.moved > UNSTEADY:
        yield f"the median moved by {100 * record.latency.moved:.0f} % while it was measured"
    before, after = record.reference_ms
    drift = abs(after / before - 1)
    if drift > DRIFT:
        yield f"the reference model drifted by {100 * drift:.0f} % (load, clocks or heat)"
    single = record.throughput_at(1)
    if single is not None and abs(single * record.latency.p50_ms / 1000 - 1) > DISAGREEMENT:
        yield f"throughput at batch 1 ({single:.4g}/s) and median latency ({record.latency.p50_ms:.3g} ms) disagree"
    conditions = record.conditions
    if conditions.throttled:
        yield f"the GPU was throttled: {', '.join(conditions.throttled)}"
    if conditions.foreign_cores is not None and conditions.free_cores is not None:
        beyond = conditions.foreign_cores - conditions.free_cores
        if beyond > FOREIGN_CORES:
            yield f"other processes took {conditions.foreign_cores:.1f} cores, {beyond:.1f} more than were free"
