"""Probes: the backbone stays as it is, a head is fitted on its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, final

from tlbench.parameters import positive, whole_number
from tlbench.spaces import Context, Params, Suggest, pool_space
from tlbench.strategies import FrozenStrategy

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Value = TypeVar("Value", float, tuple[int, float])
"""What a kernel takes many of: a penalty, or how many neighbours vote and at which temperature."""


@final
class LinearProbe(FrozenStrategy):
    """Multinomial logistic regression on pooled features (feature extraction).

    Its one parameter `l2` is the penalty on the weights for standardised features, in units of the mean cross-entropy:
    tuning it is what separates a fair probe from an unfair one (0.3 to 5.1 points in CLIP_benchmark's comparison).
    """

    name = "linear-probe"
    summary = "logistic regression on frozen features"
    default = True
    version = 2
    together = True

    def defaults(self, context: Context) -> Params:
        """A penalty that suits some hundreds to thousands of training samples."""
        return {"l2": 0.1}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The pool, and the penalty over seven decades."""
        return {**pool_space(trial, context), "l2": trial.suggest_float("l2", 1e-6, 1e1, log=True)}

    def check(self, params: Params, context: Context) -> None:
        """Refuse a penalty that cannot be used."""
        positive(params, "l2")

    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        """One linear head per configuration, those of a pool together: what that changes is within their tolerance."""
        from tlbench.evaluation.probe import multinomial

        return _by_pool(multinomial, features, labels, configurations, _penalty)


@final
class RidgeProbe(FrozenStrategy):
    """Ridge regression of one-hot labels on pooled features, in closed form (regularised least squares).

    Its one parameter `l2` is the penalty on the weights for standardised features, in units of the mean squared error
    (scikit-learn's `alpha` is `l2` times the number of samples). Its logits are the regression's values times one
    factor, fitted on leave-one-out predictions, so that likelihood and calibration mean something too.
    """

    name = "ridge-probe"
    summary = "ridge regression on frozen features, in closed form"
    together = True

    def defaults(self, context: Context) -> Params:
        """A penalty that suits some hundreds to thousands of training samples."""
        return {"l2": 1.0}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The pool, and the penalty over seven decades."""
        return {**pool_space(trial, context), "l2": trial.suggest_float("l2", 1e-4, 1e3, log=True)}

    def check(self, params: Params, context: Context) -> None:
        """Refuse a penalty that cannot be used."""
        positive(params, "l2")

    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        """One linear head per configuration, from one decomposition per pool."""
        from tlbench.evaluation.probe import ridge

        return _by_pool(ridge, features, labels, configurations, _penalty)


@final
class NearestNeighbours(FrozenStrategy):
    """A weighted vote of the nearest training samples by cosine similarity, as DINO (Caron et al. 2021) takes it.

    A vote weighs ``exp(similarity / temperature)`` (Wu et al. 2018). Nothing is trained: the head is the features.
    """

    name = "knn"
    summary = "vote of the nearest training samples in frozen features"
    together = True

    def defaults(self, context: Context) -> Params:
        """DINO's: 20 neighbours, temperature 0.07."""
        return {"neighbours": 20, "temperature": 0.07}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The pool, 1 to 50 neighbours, and temperatures from almost one vote to almost equal votes."""
        return {
            **pool_space(trial, context),
            "neighbours": trial.suggest_int("neighbours", 1, 50, log=True),
            "temperature": trial.suggest_float("temperature", 1e-2, 1.0, log=True),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse numbers of neighbours and temperatures that cannot be used."""
        _vote(params)

    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        """One head per configuration; those of a pool remember its features together."""
        from tlbench.evaluation.probe import neighbours

        return _by_pool(neighbours, features, labels, configurations, _vote)


@final
class MlpProbe(FrozenStrategy):
    """A network with one hidden layer on pooled features: what a probe gains by not being linear.

    Trained by Adam with scikit-learn: the penalty `l2` on the weights for standardised features in units of the mean
    cross-entropy, and of the reserved names `head_width`, `learning_rate` and `batch_size`. A tenth of the training
    samples says when to stop, from 1,000 samples on.
    """

    name = "mlp-probe"
    summary = "network with one hidden layer on frozen features"

    def defaults(self, context: Context) -> Params:
        """Adam's usual rate, and the linear probe's penalty, which suits this one too."""
        return {"head_width": 256, "l2": 0.1, "learning_rate": 1e-3, "batch_size": 64}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The pool, 32 to 1,024 hidden units, penalty and rate."""
        return {
            **pool_space(trial, context),
            "head_width": trial.suggest_int("head_width", 32, 1024, log=True),
            "l2": trial.suggest_float("l2", 1e-5, 1e1, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse a penalty and a rate that cannot be used."""
        positive(params, "l2")
        positive(params, "learning_rate")

    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        """One network per configuration, all from the same seed, so that none depends on its place among them."""
        import torch

        from tlbench.evaluation.probe import mlp

        seed = int(torch.randint(2**31, (), generator=generator))
        return [
            mlp(
                features[params["pool"]],
                labels,
                hidden=params["head_width"],
                penalty=positive(params, "l2"),
                learning_rate=positive(params, "learning_rate"),
                batch_size=params["batch_size"],
                seed=seed,
            )
            for params in configurations
        ]


def _by_pool(
    kernel: Callable[[Tensor, Tensor, Sequence[Value]], Sequence[nn.Module]],
    features: Mapping[str, Tensor],
    labels: Tensor,
    configurations: Sequence[Params],
    value: Callable[[Params], Value],
) -> list[nn.Module]:
    """A head per configuration, from a kernel that takes many values at once."""
    asked = [(params["pool"], value(params)) for params in configurations]
    heads: dict[tuple[str, Value], nn.Module] = {}
    for view in dict.fromkeys(view for view, _ in asked):
        values = [each for other, each in asked if other == view]
        fitted = kernel(features[view], labels, values)
        heads.update({(view, each): head for each, head in zip(values, fitted, strict=True)})
    return [heads[each] for each in asked]


def _penalty(params: Params) -> float:
    return positive(params, "l2")


def _vote(params: Params) -> tuple[int, float]:
    """How many neighbours vote, and at which temperature."""
    return whole_number(params, "neighbours", 1, 2**31), positive(params, "temperature")
