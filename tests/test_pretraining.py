"""Pretraining of the zoo: formulas against what they say, and weights that come out the same again."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from tlbench_zoo import curves, fractals, geometry, pretrain
from tlbench_zoo.contours import Contours
from tlbench_zoo.curves import Curves
from tlbench_zoo.fractals import Fractals
from tlbench_zoo.pretrain import Pretraining, main
from tlbench_zoo.recipes import RECIPES
from tlbench_zoo.scenes import Scenes

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
SHORT = RECIPES["short"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def upright(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Let every instance of a shape lie as its formula says."""

    def identity(count: int, _: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.eye(2).expand(count, 2, 2), torch.zeros(count, 2)

    monkeypatch.setattr(module, "placements", identity)


# Formulas


def test_systems_have_the_singular_values_that_make_attractors_worth_looking_at() -> None:
    """Anderson and Farrell (2022), section 3.2; the clamp at 0.98 may lower a sum a little."""
    matrices, chances = fractals._systems(500, seeded())
    singular = torch.linalg.svdvals(matrices)
    there = chances > 0
    counts = there.sum(1)
    total = ((singular[..., 0] + 2 * singular[..., 1]) * there).sum(1)
    assert set(counts.tolist()) == {2, 3, 4, 5, 6}
    assert (total <= (6 + counts) / 2 + 1e-4).all()
    assert ((total >= (5 + counts) / 2 - 1e-4).float().mean() > 0.9).item()
    assert singular.max() <= 0.98 + 1e-5
    torch.testing.assert_close(chances.sum(1), torch.ones(500))


def test_the_chaos_game_finds_a_known_attractor() -> None:
    """Sierpinski's triangle: three maps x -> x / 2 + corner / 2. Its middle third holds nothing."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    maps = torch.zeros(1, 6, 6)
    maps[0, :3, 0] = maps[0, :3, 3] = 0.5
    maps[0, :3, 4:] = corners / 2
    chances = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0, 0, 0]])
    x, y = fractals._wander(maps, chances, seeded())[0].unbind(-1)
    assert len(x) == 192 * 40
    assert ((x >= -1e-3) & (y >= -1e-3) & (x + y <= 1 + 1e-3)).all()
    empty = (x < 0.49) & (y < 0.49) & (x + y > 0.51)
    assert not empty.any()
    thirds = [float(corner.float().mean()) for corner in ((x > 0.5), (y > 0.5), (x < 0.5) & (y < 0.5))]
    assert thirds == pytest.approx([1 / 3] * 3, abs=0.03)


def test_points_become_coverage_where_they_are() -> None:
    points = torch.tensor([[[-0.9, -0.9], [-0.9, -0.9], [0.9, -0.9], [0.9, 1.5]]])
    cover = fractals._splat(points, 4)
    assert cover.shape == (1, 4, 4)
    assert cover[0, 0, 0] == 1  # rows are y, columns are x
    assert 0 < cover[0, 0, 3] < 1
    assert cover.count_nonzero() == 2


def test_a_contour_without_waves_is_a_disc(monkeypatch: pytest.MonkeyPatch) -> None:
    from tlbench_zoo import contours

    upright(monkeypatch, contours)
    still = torch.zeros(1, 7)
    disc = Contours(still, still, torch.tensor([0]), torch.tensor([2.0]))
    cover = disc.coverage(torch.tensor([0]), 64, seeded())
    radius = 0.75 / 1.15 * 32
    assert float(cover.sum()) == pytest.approx(math.pi * radius**2, rel=0.03)
    outline = replace(disc, styles=torch.tensor([1])).coverage(torch.tensor([0]), 64, seeded())
    brightest = outline[0, 32].argmax().item()
    assert abs(brightest - (31.5 - radius)) < 1.5 or abs(brightest - (31.5 + radius)) < 1.5
    assert outline[0, 32, 32] < 0.01


def test_strokes_are_bezier_curves() -> None:
    controls = torch.rand(5, 4, 2, generator=seeded())
    drawn = curves._bezier(controls)
    torch.testing.assert_close(drawn[:, 0], controls[:, 0])
    torch.testing.assert_close(drawn[:, -1], controls[:, -1])
    line = torch.linspace(0, 1, 4)[:, None].expand(4, 2)[None]
    torch.testing.assert_close(curves._bezier(line)[0, :, 0], torch.linspace(0, 1, 16))


def test_a_stroke_is_drawn_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    upright(monkeypatch, curves)
    level = torch.tensor([[-0.8, 0.0], [-0.3, 0.0], [0.3, 0.0], [0.8, 0.0]]).expand(1, 3, 4, 2)
    cover = Curves(level).coverage(torch.zeros(200, dtype=torch.long), 32, seeded()).mean(0)
    assert cover[15:17, 8:24].mean() > 0.6
    assert cover[:6].max() < 0.05


def test_placements_turn_and_stretch_within_their_bounds() -> None:
    matrices, shifts = geometry.placements(1000, seeded())
    area = torch.linalg.det(matrices).sqrt()
    assert ((area >= 0.6 - 1e-5) & (area <= 1.1 + 1e-5)).all()
    assert shifts.abs().max() <= 0.2


@pytest.mark.parametrize("kind", [Fractals, Contours, Curves])
def test_instances_of_a_class_are_alike(kind: Any) -> None:
    """The nearest mean image of eight classes is far more often the right one than by chance."""
    generator = seeded(3)
    bank = kind.drawn(8, generator)
    assert bank.classes == 8
    labels = torch.arange(8).repeat_interleave(60)
    cover = bank.coverage(labels, 32, generator)
    assert cover.shape == (480, 32, 32)
    assert ((cover >= 0) & (cover <= 1)).all()
    images = cover.flatten(1).view(8, 60, -1)
    means = images[:, :30].mean(1)
    nearest = torch.cdist(images[:, 30:].flatten(0, 1), means).argmin(1)
    assert (nearest == torch.arange(8).repeat_interleave(30)).float().mean() > 0.4


def test_a_scene_holds_what_its_labels_say() -> None:
    generator = seeded(1)
    scenes = Scenes.drawn(30, generator)
    scene = scenes.sample(400, 32, generator)
    assert scene.images.shape == (400, 3, 32, 32)
    assert ((scene.images >= 0) & (scene.images <= 1)).all()
    assert scene.labels.keys() == scenes.classes.keys()
    for name, count in scenes.classes.items():
        assert 0 <= int(scene.labels[name].min()) <= int(scene.labels[name].max()) < count
    inside, outside = scene.cover[:, None] > 0.9, scene.cover[:, None] < 0.1
    front, back = (torch.where(part, scene.images, torch.nan).nanmean((2, 3)) for part in (inside, outside))
    known = ~(front.isnan() | back.isnan()).any(1)
    assert known.sum() > 200
    for seen, told in ((front, scene.colours[:, :3]), (back, scene.colours[:, 3:])):
        together = torch.corrcoef(torch.stack([seen[known].flatten(), told[known].flatten()]))[0, 1]
        assert together > 0.85


# Runs


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--recipe", "short", "--device", "cpu", "--threads", "1"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        result = command("--seed", seed, "--out", tmp_path / folder)
        assert result.exit_code == 0, result.output
        files = [tmp_path / folder / f"{name}.safetensors" for name in pretrain.BUILDERS]
        contents.append([file.read_bytes() for file in files])
        for file, content in zip(files, contents[-1], strict=True):
            card = file.with_suffix(".md").read_text()
            assert hashlib.sha256(content).hexdigest() in card
            assert f"python -m tlbench_zoo.pretrain {file.stem} --recipe short --seed {seed}" in card
    assert contents[0] == contents[1]
    assert all(one != other for one, other in zip(contents[0], contents[2], strict=True))


def test_an_interrupted_run_ends_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert command("resnet_mini", "--out", whole).exit_code == 0
    monkeypatch.setattr(pretrain, "_CHECKPOINT_EVERY_S", 0)
    advance = Pretraining.advance

    def interrupted(run: Pretraining) -> float:
        if run.step == 7:
            raise KeyboardInterrupt
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "advance", interrupted)
        assert command("resnet_mini", "--out", again).exit_code != 0
    assert [file.name for file in again.iterdir()] == ["resnet_mini.checkpoint"]
    result = command("resnet_mini", "--out", again)
    assert "going on from step 7" in result.output
    assert not (again / "resnet_mini.checkpoint").exists()
    name = "resnet_mini.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_the_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    Pretraining("vgg_mini", SHORT, 5, CPU).save(tmp_path / "vgg_mini.checkpoint")
    result = command("vgg_mini", "--out", tmp_path)
    assert result.exit_code == 1
    assert "another recipe or seed" in result.output


def test_training_teaches(tmp_path: Path) -> None:
    """In 60 steps a small network learns to tell more of what it sees than by chance, and its loss falls."""
    run = Pretraining("convnext_mini", replace(SHORT, steps=60, batch=32, evaluated=512), 0, CPU)
    losses = [run.advance() for _ in range(60)]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    chance = 1 / run.scenes.classes["background palette"]
    assert run.accuracy()["background palette"] > 3 * chance


@pytest.mark.gpu
def test_a_gpu_learns_the_same_task() -> None:
    run = Pretraining("resnet_mini", replace(SHORT, steps=60, batch=32, evaluated=512), 0, torch.device("cuda"))
    for _ in range(60):
        run.advance()
    assert run.accuracy()["background palette"] > 3 / run.scenes.classes["background palette"]
    assert {value.device.type for value in run.weights().values()} == {"cpu"}
