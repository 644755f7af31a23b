"""Admission: which backbones keep the limits a user sets, told before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import final

from tlbench.benchmark import Limits
from tlbench.catalog import Catalog, Entry
from tlbench.components import Facts
from tlbench.errors import TlbenchError
from tlbench.evaluation.complexity import of_backbone
from tlbench.evaluation.deployed import expected, fresh_subject, libraries
from tlbench.evaluation.device import Compute
from tlbench.evaluation.model import Shape, shape
from tlbench.evaluation.saved import declaration_json
from tlbench.evaluation.speed import BRIEF, measured
from tlbench.evaluation.variant import Source, Variant, serving
from tlbench.plugins import Plugins
from tlbench.spaces import resolve
from tlbench.speed import BATCH, SpeedRecord, cost_key
from tlbench.store import Store


@final
@dataclass(frozen=True, kw_only=True)
class Admission:
    """Holds backbones, each with a fresh linear head, against limits: cheap questions first."""

    limits: Limits
    store: Store
    """Where speed records are kept: a run that goes on decides as before."""

    catalog: Catalog
    plugins: Plugins
    compute: Compute
    say: Callable[[str], None] = field(default=lambda _: None)

    def look(self, entry: Entry, classes: int) -> Shape | str:
        """What the backbone looks like on the meta device; the reason where it breaks a limit."""
        reason = self._by_facts(entry.component.facts)
        if reason:
            return reason
        seen = shape(entry.component)
        return self._by_size(entry, seen, classes) or self._by_measurement(entry, seen, classes) or seen

    def _by_facts(self, facts: Facts) -> str:
        """Why a backbone is left out by what is known of it without building it; empty where nothing speaks so."""
        return _first(self._above("max_params", facts.parameters, "{:,.0f} parameters"))

    def _by_size(self, entry: Entry, shape: Shape, classes: int) -> str:
        """Likewise by what is counted on the meta device."""
        parameters = shape.parameters + (shape.width + 1) * classes
        reason = _first(self._above("max_params", parameters, "{:,.0f} parameters"))
        if reason or self.limits.max_macs is None:
            return reason
        macs = of_backbone(entry.component, resolve(), classes).macs
        return _first(self._above("max_macs", macs, "{:,.0f} MACs"))

    def _by_measurement(self, entry: Entry, shape: Shape, classes: int) -> str:
        """Likewise by what is measured on this machine, with random weights."""
        limits = self.limits
        if (limits.max_latency_ms, limits.min_throughput_per_s, limits.max_memory_mib) == (None, None, None):
            return ""
        try:
            record = self._record(entry, shape, classes)
        except TlbenchError as error:
            return f"it could not be measured: {error}"
        reason = _first(self._broken(record))
        return f"{reason}; {'; '.join(record.doubts)}" if reason and record.doubts else reason

    def _broken(self, record: SpeedRecord) -> Iterator[str]:
        yield from self._above("max_latency_ms", record.latency.p90_ms, "90 % of single samples take up to {:.3g} ms")
        yield from self._above("max_memory_mib", _memory_mib(record), "{:.0f} MiB of memory")
        least, found = self.limits.min_throughput_per_s, record.throughput_at(BATCH)
        if least is not None and (found is None or found < least):
            told = "no batch of 8 fits into memory" if found is None else f"{found:.3g} samples a second"
            yield f"min_throughput_per_s = {least:g}: {told} in batches of {BATCH}"

    def _above(self, name: str, value: float | None, told: str) -> Iterator[str]:
        most = getattr(self.limits, name)
        if most is not None and value is not None and value > most:
            yield f"{name} = {most:,.15g}: {told.format(value)}"

    def _record(self, entry: Entry, shape: Shape, classes: int) -> SpeedRecord:
        """From the store, or measured now and kept there."""
        variant = serving(self.compute.dtype_name)
        subject = fresh_subject(entry, self.catalog, shape, classes)
        key = cost_key(subject, expected(variant, self.compute), libraries())
        resident = self.limits.max_memory_mib is not None and self.compute.device.type == "cpu"
        for known in self.store.speeds():
            if known.key == key and (not resident or _memory_mib(known) is not None):
                return known
        self.say(f"measuring {entry.full_name}")
        record = self._measured(entry, classes, variant, resident)
        self.store.put_speed(record)
        return record

    def _measured(self, entry: Entry, classes: int, variant: Variant, resident: bool) -> SpeedRecord:
        declared = tuple(declaration_json(one) for one in self.catalog.lineage(entry.full_name))
        source = Source(backbone=entry.full_name, declared=declared, classes=classes)
        return measured(source, variant, self.compute, replace(BRIEF, cold=resident), self.plugins)


def _memory_mib(record: SpeedRecord) -> float | None:
    added: float | None = record.memory.get("added_resident")
    allocated: float | None = record.memory.get("peak_allocated", {}).get("1")
    return added if record.setting.device == "cpu" else allocated


def _first(reasons: Iterator[str]) -> str:
    return next(reasons, "")
