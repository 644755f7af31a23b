"""Search spaces: the reserved parameter names, their defaults and ranges, and how a file narrows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from tlbench.errors import BenchmarkError

Params = Mapping[str, Any]
"""A flat dict of JSON values: one recipe."""


@final
@dataclass(frozen=True, kw_only=True)
class Context:
    """What a strategy may know of a cell when it lays out its search space."""

    modality: str
    kind: str | None
    """The backbone's `Facts.kind`."""

    layer_groups: int
    pools: tuple[str, ...]
    classes: int
    train_size: int
    drop_path: bool = False
    """Whether the backbone has stochastic depth to set."""


class Suggest(Protocol):
    """The part of `optuna.Trial` that a search space may use."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """An integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""


RESERVED: dict[str, Any] = {
    "pool": "native",  # one of the backbone's pools
    "head": "linear",  # HEADS
    "head_width": 256,  # hidden units of the heads "mlp" and "conv"
    "head_start": "random",  # or "probe": a linear head begins as the logistic regression on the frozen features
    "probe_l2": 0.1,  # penalty of that regression
    "dropout": 0.0,  # before the head
    "drop_path": 0.0,  # highest rate of stochastic depth, in backbones that have it
    "optimiser": "adamw",  # or "sgd": Nesterov momentum 0.9
    "learning_rate": 1e-3,  # peak, for the effective batch size
    "weight_decay": 1e-2,  # never on norms and biases
    "batch_size": 64,  # effective; training splits it into micro-batches
    # None: by rule; where batch-norm statistics train it is the batch size unless given, and two samples at least
    "micro_batch": None,
    "schedule": "cosine",  # SCHEDULES
    "warmup": 0.1,  # fraction of the steps with a rising rate: of all, with "wsd" of ten epochs' or fewer
    "label_smoothing": 0.1,
    "clip_norm": 1.0,  # gradient norm; None: no clipping
    "augmentation": "none",  # AUGMENTATIONS
    "mixup": 0.0,  # alpha of the Beta distribution; 0: off
    "cutmix": 0.0,
    "batch_norm": "frozen",  # statistics while the layer trains: "frozen" or "training"
    "channels_last": False,  # memory layout of convolutional models
    "patience": None,  # epochs without a better validation score before training stops; None: never
    "average": 1,  # most epochs whose weights are averaged, greedily; 1: the best epoch alone
}
"""Every name the engine reads, with the value it takes when neither strategy nor file says otherwise."""

HEADS = ("linear", "mlp", "conv", "attention")
"""`linear` and `mlp` (one hidden layer) take pooled features; `conv` (a convolution, then average pooling) and
`attention` (attention pooling with a learned query) take unpooled ones, whatever `pool` says."""
HEAD_STARTS = ("random", "probe")
OPTIMISERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "wsd")
"""`cosine`: the rate falls from the warm-up on, the faster the fewer the epochs; each of them is validated. `wsd`:
warm-up, stable, decay: it falls in the last third of the steps alone, so that a training of more epochs can go on from
where that began; only what is decayed is worth validating, at the end."""
AUGMENTATIONS = ("none", "flip", "crop", "trivial", "rand", "affine")
"""`flip`: horizontal; `crop`: random resized crop and flip; `trivial`, `rand`: flip, then TrivialAugment (Mueller and
Hutter 2021) or RandAugment (Cubuk et al. 2020, 2 operations of magnitude 9). `affine`: turns, shifts and changes of
size, all of them small, and no flip: for writing, signs and whatever else a mirror changes."""
_FOR_PHOTOGRAPHS = AUGMENTATIONS[:5]
"""What is searched where the file says nothing."""
BATCH_NORMS = ("frozen", "training")
VALIDATED_ONCE = "schedule = 'wsd' validates once, at the end: patience has to be left out and average = 1"

_CHOICES = {
    "head": HEADS,
    "head_start": HEAD_STARTS,
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "batch_norm": BATCH_NORMS,
}
_MAY_BE_NONE = ("micro_batch", "patience", "clip_norm")
_BOUNDS = {  # closed intervals
    "head_width": (1, 65536),
    "probe_l2": (1e-12, 1e6),
    "dropout": (0.0, 0.99),
    "drop_path": (0.0, 0.99),
    "learning_rate": (0.0, 100.0),
    "weight_decay": (0.0, 100.0),
    "batch_size": (1, 65536),
    "micro_batch": (1, 65536),
    "warmup": (0.0, 1.0),
    "label_smoothing": (0.0, 0.99),
    "clip_norm": (0.0, 1e9),
    "mixup": (0.0, 100.0),
    "cutmix": (0.0, 100.0),
    "patience": (1, 10**6),
    "average": (1, 100),
}


def resolve(*layers: Params) -> dict[str, Any]:
    """The full recipe: the reserved defaults overlaid by `layers` in turn, checked."""
    params = dict(RESERVED)
    for layer in layers:
        params.update(layer)
    check(params)
    return params


def check(params: Params) -> None:
    """Refuse reserved names, where they occur, with a value the engine cannot use. Raises `BenchmarkError`."""
    for name, choices in _CHOICES.items():
        if name in params and params[name] not in choices:
            raise BenchmarkError(f"parameter {name} = {params[name]!r}: one of {', '.join(choices)} is needed")
    for name, (low, high) in _BOUNDS.items():
        if name not in params:
            continue
        value = params[name]
        if value is None and name in _MAY_BE_NONE:
            continue
        whole = isinstance(low, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise BenchmarkError(f"parameter {name} = {value!r}: {kind} from {low:g} to {high:g} is needed")
    if params.get("schedule") == "wsd" and (params.get("patience") is not None or params.get("average", 1) > 1):
        raise BenchmarkError(VALIDATED_ONCE)


def training_space(trial: Suggest, context: Context, learning_rate: tuple[float, float]) -> dict[str, Any]:
    """The parameters every fine-tuning strategy searches: ranges from Quick-Tune (Arango et al. 2024) and AutoGluon.

    `learning_rate`: lowest and highest, searched on a logarithmic scale. Head, batch size, optimiser and averaging stay
    fixed unless the file gives them a range.
    """
    params = {
        **pool_space(trial, context),
        "learning_rate": trial.suggest_float("learning_rate", *learning_rate, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "warmup": trial.suggest_categorical("warmup", (0.0, 0.1, 0.2, 0.3)),
        "label_smoothing": trial.suggest_categorical("label_smoothing", (0.0, 0.05, 0.1)),
        "dropout": trial.suggest_categorical("dropout", (0.0, 0.1, 0.2)),
    }
    if context.drop_path:
        params["drop_path"] = trial.suggest_categorical("drop_path", (0.0, 0.1, 0.2))
    if context.modality == "image":
        params["augmentation"] = trial.suggest_categorical("augmentation", _FOR_PHOTOGRAPHS)
        params["mixup"] = trial.suggest_categorical("mixup", (0.0, 0.2, 1.0))
        params["cutmix"] = trial.suggest_categorical("cutmix", (0.0, 1.0))
    return params


def pool_space(trial: Suggest, context: Context) -> dict[str, Any]:
    """The pool, where the backbone offers several."""
    if len(context.pools) < 2:
        return {}
    return {"pool": trial.suggest_categorical("pool", context.pools)}


@final
class Narrowed:
    """A trial that answers with the values a benchmark file fixes and the ranges it gives, and else as it is asked.

    `prefix` goes before every name told to the sampler, so that strategies searched together never share a name.
    """

    def __init__(
        self, trial: Suggest, fixed: Params, ranges: Mapping[str, Mapping[str, Any]], prefix: str = ""
    ) -> None:
        self._trial, self._fixed, self._ranges, self._prefix = trial, fixed, ranges, prefix

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A float, from the file's range if it has one."""
        if self._given(name):
            return float(self._from_file(name, whole=False))
        return self._trial.suggest_float(self._prefix + name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """An integer, from the file's range if it has one."""
        if self._given(name):
            return int(self._from_file(name, whole=True))
        return self._trial.suggest_int(self._prefix + name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """A choice, from the file's range if it has one."""
        if self._given(name):
            return self._from_file(name, _whole(name))
        return self._trial.suggest_categorical(self._prefix + name, tuple(choices))

    def remaining(self, suggested: Params) -> dict[str, Any]:
        """Values for the names that the file fixes or gives a range and the space left out."""
        return {
            name: self._from_file(name, _whole(name)) for name in (*self._fixed, *self._ranges) if name not in suggested
        }

    def _from_file(self, name: str, whole: bool | None) -> Any:
        """The value the file fixes, or one from the range it gives; `whole` None: whole where both ends are."""
        if name in self._fixed:
            return self._fixed[name]
        given = dict(self._ranges[name])
        if "choices" in given:
            return self._trial.suggest_categorical(self._prefix + name, tuple(given["choices"]))
        if whole is None:
            whole = isinstance(given["low"], int) and isinstance(given["high"], int)
        if whole:
            return self._trial.suggest_int(self._prefix + name, **given)
        return self._trial.suggest_float(self._prefix + name, **given)

    def _given(self, name: str) -> bool:
        return name in self._fixed or name in self._ranges


def _whole(name: str) -> bool | None:
    """Whether a reserved parameter is a whole number; None for a strategy's own."""
    return isinstance(_BOUNDS[name][0], int) if name in _BOUNDS else None
