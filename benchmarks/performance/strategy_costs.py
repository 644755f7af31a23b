"""What one training step of every strategy takes, in time and in memory, next to full fine-tuning.

    python benchmarks/performance/strategy_costs.py

prints a Markdown table. Weights are random, since they change no cost. Per round every strategy takes one step on the
same batch, in turn, and its time is divided by that of full fine-tuning in the same round; reported is the median
ratio, and the quartiles. Memory is counted, not sampled: what autograd keeps for the backward pass, gradients and the
optimiser's state, the weights themselves left out. A probe's features take one forward pass per sample and data set,
not per epoch: the row `features`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.evaluation.freezing import apply_groups, train_mode
from tlbench.evaluation.model import Classifier, build, seeded, shape
from tlbench.evaluation.optimiser import build_optimiser
from tlbench.plugins import discover
from tlbench.spaces import Context, resolve
from tlbench.strategies import TrainedStrategy

BACKBONES = ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "timm/resnet50.a1_in1k")
STRATEGIES = ("full", "lp-ft", "l2-sp", "partial", "norm-only", "bias-only", "lora")
"""Those of `basic` whose steps are all alike: gradual unfreezing goes from the head's step to that of `full`, and
`scratch` takes that of `full`."""

CLASSES = 10


@dataclass
class Competitor:
    """A step that can be taken again and again."""

    step: Callable[[], None]
    memory: int = 0
    """Bytes beyond the weights."""

    trained: int = 0
    seconds: list[float] = field(default_factory=list)


@contextmanager
def kept_for_backward(besides: Sequence[Tensor], found: dict[int, int]) -> Iterator[None]:
    """Note the storages that autograd saves, by address, those of `besides` left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def training(backbone: Backbone, strategy: TrainedStrategy, context: Context, inputs: Tensor) -> Competitor:
    """A training step of a strategy at its defaults, warmed up once and its memory counted."""
    params = resolve(strategy.defaults(context))
    model = build(backbone, params, CLASSES, pretrained=False, seed=0)
    with seeded("adapt"):
        groups = strategy.adapt(model, params)
    apply_groups(model, groups)
    model.to(inputs.device)
    if params["channels_last"]:
        model.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    train_mode(model, params["batch_norm"])
    optimiser = build_optimiser(groups, params)
    parameters = [parameter for group in groups for parameter in group.parameters]
    labels = torch.arange(len(inputs), device=inputs.device) % CLASSES
    saved: dict[int, int] = {}

    def loss() -> Tensor:
        value = functional.cross_entropy(model(inputs), labels)
        penalty = strategy.penalty(model, params)
        return value if penalty is None else value + penalty

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss())
        optimiser.step()

    with kept_for_backward([*model.parameters(), *model.buffers(), inputs], saved):
        value = loss()  # held, so that no address is given out twice
    del value
    step()
    state = [value for values in optimiser.state.values() for value in values.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    memory = sum(saved.values()) + sum(tensor.nbytes for tensor in [*state, *gradients])
    return Competitor(step, memory, sum(parameter.numel() for parameter in parameters))


def extraction(backbone: Backbone, context: Context, strategy: TrainedStrategy, inputs: Tensor) -> Competitor:
    """The forward pass that a probe's features take."""
    model: Classifier = build(backbone, resolve(strategy.defaults(context)), CLASSES, pretrained=False, seed=0)
    model.eval().to(inputs.device)

    def step() -> None:
        with torch.inference_mode():
            model.features(inputs)

    step()
    return Competitor(step)


def compare(catalog: Catalog, name: str, batch: int, rounds: int, device: torch.device) -> dict[str, Competitor]:
    """Every strategy's steps on one backbone, round by round."""
    backbone: Backbone = catalog.backbone(name).component
    strategies = {each: catalog.strategy(f"basic/{each}").component for each in STRATEGIES}
    preprocess = backbone.preprocess
    arrays = [preprocess.prepare(_noise(preprocess.example().shape)) for _ in range(batch)]
    inputs: Any = preprocess.batch(arrays, {}, False, torch.Generator(), device)
    context = Context(
        modality=backbone.modality,
        kind=backbone.facts.kind,
        layer_groups=shape(backbone).layer_groups,
        pools=backbone.pools,
        classes=CLASSES,
        train_size=1000,
    )
    found = {each: training(backbone, strategy, context, inputs) for each, strategy in strategies.items()}
    found["features"] = extraction(backbone, context, strategies["full"], inputs)
    for _ in range(rounds):
        for competitor in found.values():
            competitor.seconds.append(_timed(competitor.step, device))
    return found


def _noise(shape: tuple[int, ...]) -> Any:
    return torch.randint(256, shape, dtype=torch.uint8).numpy()


def _timed(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    catalog, device = Catalog(discover()), torch.device(given.device)
    print("| backbone | strategy | trained | step / full's [quartiles] | memory, MiB | memory / full's |")
    print("|---|---|--:|--:|--:|--:|")
    for name in given.backbones:
        found = compare(catalog, name, given.batch, given.rounds, device)
        full = found["full"]
        for strategy, each in found.items():
            ratios = [mine / its for mine, its in zip(each.seconds, full.seconds, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            memory = f"{each.memory / 2**20:.0f} | {each.memory / full.memory:.2f}" if each.memory else " | "
            trained = f"{each.trained:,}" if each.trained else ""
            print(f"| {name} | {strategy} | {trained} | {middle:.2f} [{low:.2f}, {high:.2f}] | {memory} |")


if __name__ == "__main__":
    main()
