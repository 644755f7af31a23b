"""Snapshots: all that decides how a training goes on, taken where it is paused and put back where it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from tlbench.evaluation.freezing import FrozenState

_AUGMENTATION, _DROPOUT, _DEVICE = "generator augmentation", "generator dropout", "generator device"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A training at one of its steps."""

    tensors: Mapping[str, Tensor]
    """On the CPU, contiguous, no two of them in one memory."""

    facts: Mapping[str, Any]
    """JSON."""

    @property
    def counters(self) -> Mapping[str, Any]:
        """What whoever took it counted so far."""
        counters: Mapping[str, Any] = self.facts["counters"]
        return counters


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Moving:
    """What moves while a model trains."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    frozen: FrozenState
    """Of the model as it was before its first step."""

    augmentation: torch.Generator
    device: torch.device

    def snapshot(self, counters: Mapping[str, Any], *, ended: bool = False) -> Snapshot:
        """Everything as it is now, torch's global generators included, of which dropout is drawn.

        `ended`: nothing will be trained any more, what the optimiser remembers can be left out.
        """
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        moments = {
            f"optimiser {kind} {names[parameter]}": moment
            for parameter, state in ([] if ended else self.optimiser.state.items())
            for kind, moment in state.items()
        }
        generators = {_AUGMENTATION: self.augmentation.get_state(), _DROPOUT: torch.get_rng_state()}
        if self.device.type == "cuda":
            generators[_DEVICE] = torch.cuda.get_rng_state(self.device)
        tensors = {**{f"model {name}": tensor for name, tensor in self.frozen.moved().items()}, **moments, **generators}
        return Snapshot(
            tensors={name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            facts={
                "counters": dict(counters),
                "groups": self._groups(),
                "scaler": self.scaler.state_dict(),
                # In another layout sums may be rounded in another way.
                "strides": {name: list(moment.stride()) for name, moment in moments.items()},
            },
        )

    def restore(self, snapshot: Snapshot) -> bool:
        """Put everything back as it was; False, and nothing is changed, where it was taken from another training."""
        own: dict[str, Tensor] = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        tensors, facts = snapshot.tensors, snapshot.facts
        model = {name.removeprefix("model "): tensors[name] for name in tensors if name.startswith("model ")}
        fits = all(name in own and _looks_like(own[name], tensor) for name, tensor in model.items())
        if not fits or facts["groups"] != self._groups():
            return False
        with torch.no_grad():
            for name, tensor in model.items():
                own[name].copy_(tensor)
        for name, strides in facts["strides"].items():
            _, kind, of = name.split(" ", 2)
            # The optimisers count steps on the CPU, wherever the parameter is.
            device = torch.device("cpu") if kind == "step" else own[of].device
            moment = torch.empty_strided(tensors[name].shape, strides, dtype=tensors[name].dtype, device=device)
            self.optimiser.state[own[of]][kind] = moment.copy_(tensors[name])
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.augmentation.set_state(tensors[_AUGMENTATION])
        torch.set_rng_state(tensors[_DROPOUT])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[_DEVICE], self.device)
        return True

    def _groups(self) -> list[list[Any]]:
        """Which parameters train, and how."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [
            [group["peak_rate"], group["weight_decay"], [names[parameter] for parameter in group["params"]]]
            for group in self.optimiser.param_groups
        ]


def _looks_like(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
