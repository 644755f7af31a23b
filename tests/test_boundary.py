"""The boundary: training on activations of the frozen part is the training it stands for, wherever it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch

import checkpoints
import pieces
import tiny
from tlbench.components import IMAGE, Backbone, Preprocess, Split
from tlbench.evaluation import device
from tlbench.evaluation.boundary import WORTH, Boundaries
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.device import Compute
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build
from tlbench.evaluation.train import Run, Task, train
from tlbench.spaces import Context, Params, Suggest, resolve
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic import lora, unfreezing
from tlbench_timm.backbone import TimmBackbone
from tlbench_transformers.backbone import TransformersBackbone

pytestmark = pytest.mark.long

SAMPLES = 22
QUIET = {"batch_size": 8, "learning_rate": 3e-3, "dropout": 0.1, "micro_batch": 3}


@pytest.fixture(autouse=True)
def _worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks as small as these hardly pay."""
    monkeypatch.setitem(WORTH, "cpu", 0.0)


def prepared(backbone: Backbone, seed: int, samples: int = SAMPLES) -> Prepared:
    generator = np.random.default_rng(seed)
    raw: Any
    if backbone.modality == IMAGE:
        raw = generator.integers(0, 255, (samples, 40, 40, 3)).astype(np.uint8)
    else:
        raw = [" ".join(generator.choice(checkpoints.WORDS, 3 + index % 9)) for index in range(samples)]
    ids = [f"{seed}/{index}" for index in range(samples)]
    part = as_part(Split(ids, [index % 3 for index in range(samples)], ("a", "b", "c"), raw), f"part {seed}")
    return Prepared(part, backbone.preprocess)


def boundaries(most_bytes: int | None = None) -> Boundaries:
    return Boundaries(memory=Memory(8, most_bytes), key=("data",))


def run(
    backbone: Backbone,
    strategy: TrainedStrategy,
    on: Boundaries | None,
    *,
    epochs: int = 3,
    change: Callable[[Classifier], None] = lambda _: None,
    compute: Compute = pieces.CPU,
    **changes: Any,
) -> tuple[Classifier, Run]:
    context = Context(
        modality=backbone.modality, kind="transformer", layer_groups=4, pools=("native",), classes=3, train_size=SAMPLES
    )
    params = resolve(strategy.defaults(context), {**QUIET, "augmentation": "none", **changes})
    model = build(backbone, params, 3, False, 0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if not parameter.any():
                parameter.fill_(0.1)
    change(model)
    task = Task(
        strategy=strategy,
        params=params,
        preprocess=backbone.preprocess,
        train=prepared(backbone, 1),
        validation=prepared(backbone, 2),
        chooses=np.ones(SAMPLES, bool),
        metric="nll",
        classes=3,
        epochs=epochs,
        seed=0,
        compute=compute,
        report=lambda epoch, score: False,
        boundaries=on,
    )
    return model, train(model, task)


@final
class Chosen(TrainedStrategy):
    """What is named trains, and the head."""

    name = "chosen"
    summary = "parameters by name"

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def defaults(self, context: Context) -> Params:
        return {}

    def space(self, trial: Suggest, context: Context) -> Params:
        return {}

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        named = model.backbone.named_parameters()
        chosen = [parameter for name, parameter in named if any(part in name for part in self.parts)]
        return [ParameterGroup([*chosen, *model.head.parameters()])]


VIT, RESNET = "test_vit.r160_in1k", "test_resnet.r160_in1k"


def timm(name: str) -> Backbone:
    return TimmBackbone(name).derive(name="small", weights=None, options={}, preprocess={"size": 64})


def check_same(backbone: Backbone, strategy: TrainedStrategy, name: str | None, **changes: Any) -> None:
    """Losses, scores, logits and the trained weights are those of training on the samples themselves."""
    whole, expected = run(backbone, strategy, None, **changes)
    cut, got = run(backbone, strategy, boundaries(), **changes)
    assert got.feed_counts["boundary"] == name
    for one, other in zip(expected.curve, got.curve, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert other.search_score == pytest.approx(one.search_score, rel=1e-4)
    assert expected.validation_logits is not None
    assert got.validation_logits is not None
    np.testing.assert_allclose(got.validation_logits, expected.validation_logits, rtol=1e-3, atol=1e-4)
    for key, tensor in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)
    assert got.frozen == expected.frozen
    assert got.frozen["parameters_changed"] is False
    assert (got.steps, got.micro_batch, got.samples_seen) == (expected.steps, expected.micro_batch, SAMPLES * 3)


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (Chosen("blocks.5.", "fc_norm", "backbone.norm"), "backbone.blocks.5"),
        (Chosen("blocks.5.mlp.fc2"), "backbone.blocks.5"),
        (Chosen(), "head"),
    ],
)
def test_a_transformer(strategy: TrainedStrategy, name: str) -> None:
    check_same(timm(VIT), strategy, name)


@pytest.mark.parametrize("pool", ["native", "cls", "avg"])
def test_every_pool(pool: str) -> None:
    check_same(timm(VIT), unfreezing.PartialFineTuning(), "backbone.blocks.4", pool=pool, frozen_blocks=5)


@pytest.mark.parametrize(("head", "first"), [("mlp", ".hidden"), ("conv", ".convolution"), ("attention", ".norm")])
@pytest.mark.parametrize("name", [VIT, RESNET])
def test_every_head(name: str, head: str, first: str) -> None:
    check_same(timm(name), Chosen(), f"head{first}", head=head, dropout=0.0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch_norm", ["frozen", "training"])
def test_a_stage_of_a_convolutional_network(channels_last: bool, batch_norm: str) -> None:
    """Batch-norm statistics may train: those that do are behind the cut."""
    options = {"channels_last": channels_last, "batch_norm": batch_norm, "micro_batch": None}
    check_same(timm(RESNET), Chosen("layer4"), "backbone.layer4.0", **options)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "llama", "modernbert"])
def test_texts_of_different_length(model_type: str, tmp_path: Path) -> None:
    """LLaMA's layers and ModernBERT's also take rotary embeddings, which are made once before them all.

    In BERT's layers all goes through the attention, the shortcut around it included.
    """
    backbone = TransformersBackbone("here", folder=checkpoints.make(model_type, tmp_path / "model"))
    layer = (
        "backbone.model."
        + {
            "bert": "encoder.layer.2.attention",
            "distilbert": "transformer.layer.2",
            "roberta": "encoder.layer.2.attention",
            "llama": "layers.2",
            "modernbert": "layers.2",
        }[model_type]
    )
    part = layer.removeprefix("backbone.model.").removesuffix(".attention")
    check_same(backbone, Chosen(f"{part}."), layer)


@pytest.mark.parametrize(("name", "top"), [(VIT, "blocks.5."), (RESNET, "layer4.")])
def test_mixed_precision(name: str, top: str) -> None:
    half = Compute(device=torch.device("cpu"), dtype=torch.bfloat16, threads=1)
    _, whole = run(timm(name), Chosen(top), None, compute=half)
    _, cached = run(timm(name), Chosen(top), boundaries(), compute=half)
    assert cached.feed_counts["boundary"] is not None
    for one, other in zip(whole.curve, cached.curve, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-2)


@final
class TopLora(TrainedStrategy):
    """LoRA beside one layer near the top."""

    name = "top-lora"
    summary = "additions to one layer"

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def defaults(self, context: Context) -> Params:
        return {"rank": 2, "alpha_ratio": 1, "lora_dropout": 0.1}

    def space(self, trial: Suggest, context: Context) -> Params:
        return {}

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        lora._inject(model.backbone, [self.layer], params)
        added = [parameter for name, parameter in model.backbone.named_parameters() if "lora_" in name]
        return [ParameterGroup([*added, *model.head.parameters()])]


def test_additions_to_a_layer_near_the_top() -> None:
    check_same(timm(VIT), TopLora("blocks.5.attn.qkv"), "backbone.blocks.5")


def test_biases_near_the_top() -> None:
    biases = [f"blocks.5.{part}.bias" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
    check_same(timm(VIT), Chosen(*biases), "backbone.blocks.5")


@final
class Restless(Preprocess):
    """Draws noise for training, whatever the recipe says."""

    def __init__(self, of: Preprocess) -> None:
        self.of = of

    @property
    def identity(self) -> Any:
        return self.of.identity

    def prepare(self, sample: Any) -> np.ndarray:
        return self.of.prepare(sample)

    def batch(self, arrays: Any, params: Params, training: bool, generator: Any, device: Any) -> Any:
        inputs = self.of.batch(arrays, params, training, generator, device)
        return inputs + 1e-6 * torch.randn(inputs.shape, generator=generator) if training else inputs

    def example(self) -> np.ndarray:
        return self.of.example()


class Noisy:
    """A backbone whose preprocessing is restless."""

    def __init__(self, of: Backbone) -> None:
        self._of, self.preprocess = of, Restless(of.preprocess)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        (tiny.Head(), {"augmentation": "flip"}),
        (tiny.Head(), {"mixup": 0.2}),
        (tiny.Head(), {"cutmix": 1.0}),
        (tiny.Full(), {}),
        (tiny.Thaw(), {}),
        (unfreezing.GradualUnfreezing(), {}),
        (Chosen("stem.0"), {}),
    ],
)
def test_nothing_is_cached_where_samples_or_the_frozen_part_change(
    strategy: TrainedStrategy, changes: dict[str, Any]
) -> None:
    on = boundaries()
    _, got = run(tiny.Tiny(), strategy, on, **changes)
    assert got.feed_counts == {"boundary": None, "augmentation": changes.get("augmentation", "none")}
    assert set(got.feed_cost.values()) == {None}
    assert on.memory.nbytes == 0


def test_nothing_is_cached_where_preprocessing_draws_for_training() -> None:
    _, got = run(Noisy(tiny.Tiny()), tiny.Head(), boundaries())  # type: ignore[arg-type]
    assert got.feed_counts["boundary"] is None
    _, got = run(tiny.Tiny(), tiny.Head(), boundaries())
    assert got.feed_counts == {"boundary": "head", "augmentation": "cached"}


def test_cached_training_is_bit_for_bit_that_of_another_run() -> None:
    one, other = (run(timm(VIT), Chosen("blocks.5."), boundaries()) for _ in range(2))
    assert [point.train_loss for point in one[1].curve] == [point.train_loss for point in other[1].curve]
    assert np.array_equal(one[1].validation_logits, other[1].validation_logits)  # type: ignore[arg-type]


def test_a_later_trial_finds_the_boundary_and_is_told_what_it_cost() -> None:
    """Whatever trains behind it; a hit changes no bit of the result."""
    on = boundaries()
    _, first = run(timm(VIT), Chosen("blocks.5."), on)
    for strategy in (Chosen("blocks.5."), Chosen("blocks.5.mlp."), TopLora("blocks.5.attn.qkv")):
        _, fresh = run(timm(VIT), strategy, boundaries(), learning_rate=1e-2)
        _, later = run(timm(VIT), strategy, on, learning_rate=1e-2)
        assert np.array_equal(later.validation_logits, fresh.validation_logits)  # type: ignore[arg-type]
        assert (first.feed_cost["boundary_cached"], later.feed_cost["boundary_cached"]) == (False, True)
        for name in ("boundary_s", "boundary_flops"):
            assert later.feed_cost[name] == first.feed_cost[name] > 0


def nudge(model: Classifier) -> None:
    with torch.no_grad():
        model.backbone.blocks[0].mlp.fc1.bias[0] += 1e-3  # type: ignore[index, union-attr]


def nudge_token(model: Classifier) -> None:
    with torch.no_grad():
        model.backbone.cls_token[0, 0, 0] += 1e-3  # type: ignore[index, operator]


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        (Chosen("blocks.5."), {"change": nudge}),
        (Chosen("blocks.5."), {"change": nudge_token}),
        (Chosen("blocks.5."), {"channels_last": True}),
        (Chosen("blocks.4."), {}),
    ],
)
def test_another_frozen_part_is_another_boundary(strategy: TrainedStrategy, changes: dict[str, Any]) -> None:
    on = boundaries()
    run(timm(VIT), Chosen("blocks.5."), on, epochs=1)
    _, later = run(timm(VIT), strategy, on, epochs=1, **changes)
    assert later.feed_counts["boundary"] is not None
    assert later.feed_cost["boundary_cached"] is False


@pytest.mark.parametrize("pool", ["avg", "cls+avg", "native"])
def test_another_pool_is_another_boundary_behind_it_alone(pool: str) -> None:
    """None of these has a parameter that would tell them apart."""
    on = boundaries()
    for strategy, name, cached in ((Chosen(), "head", False), (Chosen("blocks.5."), "backbone.blocks.5", True)):
        run(timm(VIT), strategy, on, epochs=1, pool="cls")
        _, fresh = run(timm(VIT), strategy, boundaries(), epochs=1, pool=pool)
        _, later = run(timm(VIT), strategy, on, epochs=1, pool=pool)
        assert (later.feed_counts["boundary"], later.feed_cost["boundary_cached"]) == (name, cached)
        assert np.array_equal(later.validation_logits, fresh.validation_logits)  # type: ignore[arg-type]


def test_positions_and_what_is_pooled_of_them_are_two_boundaries(tmp_path: Path) -> None:
    """Of texts, the convolution in a head takes no samples by position: the cut is at the head itself."""
    backbone = TransformersBackbone("here", folder=checkpoints.make("bert", tmp_path / "model"))
    on = boundaries()
    for head in ("linear", "conv"):
        _, fresh = run(backbone, Chosen(), boundaries(), epochs=1, head=head)
        _, found = run(backbone, Chosen(), on, epochs=1, head=head)
        assert (found.feed_counts["boundary"], found.feed_cost["boundary_cached"]) == ("head", False)
        assert np.array_equal(found.validation_logits, fresh.validation_logits)  # type: ignore[arg-type]


def test_what_a_pool_calls_in_the_backbone_is_part_of_the_frozen_part() -> None:
    def nudge_norm(model: Classifier) -> None:
        with torch.no_grad():
            model.backbone.fc_norm.bias[0] += 1e-3  # type: ignore[index, union-attr]

    on = boundaries()
    for change in (lambda _: None, nudge_norm):
        _, found = run(timm("test_vit2.r160_in1k"), Chosen(), on, epochs=1, change=change)
        assert (found.feed_counts["boundary"], found.feed_cost["boundary_cached"]) == ("head", False)


def test_as_many_samples_go_on_at_once_as_what_is_kept_of_them_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stage's maps more than of images; of what is larger than the images as many as of these."""
    pixels = 3 * 64 * 64
    monkeypatch.setitem(device.BATCH_ELEMENTS, "cpu", pixels)
    for part, rows in (("layer4", 4), ("layer2", 1)):
        _, whole = run(timm(RESNET), Chosen(part), None, micro_batch=None, dropout=0.0)
        _, cached = run(timm(RESNET), Chosen(part), on := boundaries(), micro_batch=None, dropout=0.0)
        (kept,) = (on.memory.find(key) for key in on.memory)
        assert set(kept.train.sizes) == {min(pixels, *kept.train.activations.elements([0]))}
        assert (whole.micro_batch, cached.micro_batch) == (1, rows), part
        assert [one.train_loss for one in cached.curve] == pytest.approx([one.train_loss for one in whole.curve])


def test_flops_are_those_of_what_is_computed() -> None:
    """The frozen part once per sample, what is behind it in every epoch."""
    _, whole = run(timm(VIT), Chosen("blocks.5."), None, micro_batch=None)
    _, cached = run(timm(VIT), Chosen("blocks.5."), boundaries(), micro_batch=None)
    pass_flops = cached.feed_cost["boundary_flops"]
    assert pass_flops % (2 * SAMPLES) == 0
    assert whole.flops is not None
    assert cached.flops is not None
    assert whole.flops - cached.flops == pytest.approx(3 * pass_flops / 2, rel=1e-6)


def test_what_takes_too_much_memory_or_hardly_pays_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    on = boundaries()
    run(timm(VIT), Chosen("blocks.5."), on)
    needed = on.memory.nbytes
    assert needed == 2 * SAMPLES * (17 * 64 * 4 + 8)
    for most, name in ((needed, "backbone.blocks.5"), (needed // 2, None)):
        tight = boundaries(most)
        _, got = run(timm(VIT), Chosen("blocks.5."), tight)
        assert got.feed_counts["boundary"] == name
        assert tight.memory.nbytes <= most
    monkeypatch.setitem(WORTH, "cpu", 1e9)
    assert run(timm(VIT), Chosen("blocks.5."), boundaries())[1].feed_counts["boundary"] is None


def test_memory_keeps_what_was_used_last_within_its_bytes() -> None:
    memory = Memory(10, most_bytes=100)
    for name in "abc":
        memory.get(name, lambda: np.zeros(40, np.int8))
    assert ("a" in memory, "b" in memory, "c" in memory) == (False, True, True)
    memory.get("b", lambda: np.zeros(0))
    memory.get("d", lambda: np.zeros(30, np.int8))
    assert ("b" in memory, "c" in memory, memory.nbytes) == (True, False, 70)
    memory.make_room(90)
    assert memory.nbytes == 0


def computed(on: Boundaries) -> tuple[Run, int]:
    """A run that trains the last block, and how many samples at most had their patches embedded in one go."""
    most = [0]

    def watch(model: Classifier) -> None:
        def look(_: Any, __: Any, patches: torch.Tensor) -> None:
            if patches.isfinite().all():
                most.append(len(patches))

        model.backbone.patch_embed.register_forward_hook(look)  # type: ignore[operator, union-attr]

    return run(timm(VIT), Chosen("blocks.5."), on, change=watch)[1], max(most)


def test_the_way_to_a_boundary_begins_at_the_last_one_before() -> None:
    """One pass is enough for all of them if the lowest is asked for first; no bit differs."""
    on = boundaries()
    for first in (2, 3):
        run(timm(VIT), Chosen(*(f"blocks.{block}." for block in range(first, 6))), on)
    (fresh, whole), (later, part) = computed(boundaries()), computed(on)
    assert whole == SAMPLES
    assert part <= 4, "samples to prove cuts with"
    assert np.array_equal(later.validation_logits, fresh.validation_logits)  # type: ignore[arg-type]
    assert [point.train_loss for point in later.curve] == [point.train_loss for point in fresh.curve]
    assert later.feed_cost["boundary_flops"] == fresh.feed_cost["boundary_flops"]
    assert later.feed_cost["boundary_cached"] is False
