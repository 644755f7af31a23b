"""Pretraining: ``python -m tlbench_zoo.pretrain NAME...`` makes the weights of this package again, from a seed.

Formula-driven supervised learning (Kataoka et al. 2020): every image is rendered when it is needed and comes with its
labels; no photograph, no download. A run that was interrupted goes on from its last checkpoint, and ends as it would
have without the interruption: every step draws from a generator of its own.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tlbench.seeds import derive_seed
from tlbench_zoo.architectures import BUILDERS, SIZE
from tlbench_zoo.backbone import MEAN, STD
from tlbench_zoo.card import card
from tlbench_zoo.objective import Objective
from tlbench_zoo.recipes import RATE_SCALES, RECIPES, Recipe
from tlbench_zoo.scenes import Scenes

_CHECKPOINT_EVERY_S = 60.0
_BFLOAT16 = ("resnet_mini", "vgg_mini", "inception_mini")
"""Dense convolutions, 2 to 3 times as fast in bfloat16 on CPUs that know it; grouped ones are slower."""


@final
class Pretraining:
    """One network on its way through a recipe."""

    def __init__(self, name: str, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.name, self.recipe, self.seed, self.device, self.step = name, recipe, seed, device, 0
        self.generator = torch.Generator(device)
        self.scenes = Scenes.drawn(recipe.shapes, self._drawing("banks"))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, name, "weights"))
            network = BUILDERS[name]()
            objective = Objective(network, self.scenes.classes, SIZE)
        self.network: Any = network.to(device).to(memory_format=torch.channels_last)
        self.objective = objective.to(device)
        parameters = [*self.network.parameters(), *self.objective.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, weight_decay=recipe.weight_decay)
        self.autocast = name in _BFLOAT16

    def advance(self) -> float:
        """Train for one step; its loss."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * RATE_SCALES.get(self.name, 1.0) * _rate(self.step, recipe)
        scene = self.scenes.sample(recipe.batch, SIZE, self._drawing(self.step))
        unpooled, pooled = self._features(scene.images)
        loss: Tensor = self.objective(unpooled, pooled, scene)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Fractions in [0, 1] of properties that the network tells right, in images it was not trained on."""
        self.network.eval()
        correct, images = dict.fromkeys(self.scenes.classes, 0), self.recipe.evaluated
        for part in range(images // 64):
            scene = self.scenes.sample(64, SIZE, self._drawing(f"test {part}"))
            for name, hits in self.objective.correct(self._features(scene.images)[1], scene).items():
                correct[name] += hits
        self.network.train()
        return {name: hits / images for name, hits in correct.items()}

    def weights(self) -> dict[str, Tensor]:
        """The network's state on the CPU, floating-point values in float16."""
        state = self.network.state_dict()
        halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        return {name: value.cpu().contiguous() for name, value in halved.items()}

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        part = path.with_suffix(".part")
        torch.save(self._state(), part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises `click.ClickException` where it is of another run."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["question"] != self._question:
            raise click.ClickException(f"{path} is the checkpoint of another recipe or seed: remove it")
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])

    @property
    def _question(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed, **asdict(self.recipe)}

    def _state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "objective", "optimiser")}
        return {"question": self._question, "step": self.step, **parts}

    def _drawing(self, purpose: object) -> torch.Generator:
        """The generator, seeded for one purpose; the banks are those of every network with this seed."""
        return self.generator.manual_seed(derive_seed(self.seed, "scenes", purpose))

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unpooled and pooled features in float32."""
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        inputs = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            unpooled = self.network.forward_features(inputs)
            pooled = self.network.forward_head(unpooled, pre_logits=True)
        return unpooled.float(), pooled.float()


def _rate(step: int, recipe: Recipe) -> float:
    """The part of the highest rate at `step`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup))


def pretrain(name: str, recipe: Recipe, seed: int, device: torch.device, out: Path) -> Pretraining:
    """Pretrain one network, or go on with it, and write its weights to the folder `out`."""
    run, checkpoint = Pretraining(name, recipe, seed, device), out / f"{name}.checkpoint"
    if checkpoint.exists():
        run.restore(checkpoint)
        click.echo(f"{name}: going on from step {run.step}")
    first, start = run.step, time.monotonic()
    saved = start
    while run.step < recipe.steps:
        loss, now = run.advance(), time.monotonic()
        if run.step % 100 == 0:
            speed = (run.step - first) * recipe.batch / (now - start)
            click.echo(f"{name}: step {run.step}/{recipe.steps}  loss {loss:.3f}  {speed:.0f} images/s")
        if now - saved > _CHECKPOINT_EVERY_S:
            run.save(checkpoint)
            saved = now
    save_file(run.weights(), out / f"{name}.safetensors")
    checkpoint.unlink(missing_ok=True)
    return run


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BUILDERS)))
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="full", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default="a GPU if there is one")
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default="all cores")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("pretrained"), show_default=True)
def main(names: tuple[str, ...], recipe: str, seed: int, device: str, threads: int, out: Path) -> None:
    """Pretrain the networks NAMES of the zoo, all of them by default, and write their weights to a folder."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or BUILDERS:
        run = pretrain(name, RECIPES[recipe], seed, torch.device(device), out)
        digest = hashlib.sha256((out / f"{name}.safetensors").read_bytes()).hexdigest()
        text = card(
            name,
            run.recipe,
            command=(
                f"python -m tlbench_zoo.pretrain {name} --recipe {recipe} --seed {seed} "
                f"--device {device} --threads {threads}"
            ),
            made_with="torch " + torch.__version__.partition("+")[0],
            accuracy=run.accuracy(),
            classes=run.scenes.classes,
            digest=digest,
        )
        (out / f"{name}.md").write_text(text)
        click.echo(f"{name}: sha256 {digest}")


if __name__ == "__main__":
    main()
