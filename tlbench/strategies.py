"""Strategies: the components that say how to transfer. Every class here is abstract or final."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from tlbench.components import Component
from tlbench.spaces import RESERVED, Context, Params, Suggest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn


@final
@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that train together."""

    parameters: Sequence[nn.Parameter]
    learning_rate_scale: float = 1.0
    """Factor on the recipe's learning rate; 0 is a rate of 0, not "off"."""


class Strategy(Component):
    """A way to transfer. Subclass `TrainedStrategy`, `FrozenStrategy` or `ControlStrategy`."""

    modalities: frozenset[str] | None = None
    """Modalities it works for; None: any."""

    default: bool = False
    """Whether it belongs to the set that a search without a list uses."""

    pretrained: bool = True
    """Whether the backbone starts from pretrained weights."""

    frozen: ClassVar[bool]
    """Whether the backbone never changes, so that its features can be computed once."""

    reserved: ClassVar[tuple[str, ...]]
    """Names of `tlbench.spaces.RESERVED` that are part of every recipe, whether the strategy mentions them or not."""

    @abstractmethod
    def defaults(self, context: Context) -> Params:
        """The recipe to try first; `reserved` names it leaves out take the values of `tlbench.spaces.RESERVED`."""

    @abstractmethod
    def space(self, trial: Suggest, context: Context) -> Params:
        """Values suggested by `trial` (Optuna's define-by-run); names left out keep their defaults."""

    def check(self, params: Params, context: Context) -> None:
        """Refuse values of the strategy's own parameters that it cannot use; called before anything is trained.

        Raises `BenchmarkError`, as the functions of `tlbench.parameters` do. The engine checks the reserved names.
        """


class TrainedStrategy(Strategy):
    """A strategy whose model is trained by gradient steps."""

    frozen: ClassVar[bool] = False
    reserved: ClassVar[tuple[str, ...]] = tuple(RESERVED)

    @abstractmethod
    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Set `requires_grad` on `model` (an `evaluation.model.Classifier`) and return the groups that train.

        `model.backbone`, `model.pool`, `model.head` are its parts; `model.layer_groups` the backbone's `layers`;
        `model.example` the inputs of one sample, for a look at what a forward pass does. What the groups leave out is
        frozen: kept in `eval()` and checked by hash. Torch's global generator is seeded for what is drawn here.
        """

    def begin_epoch(self, model: Any, params: Params, epoch: int, epochs: int) -> Sequence[ParameterGroup] | None:
        """New groups from `epoch` on (0-based, of `epochs`), or None to go on with those in force.

        Of a strategy that defines this no training is resumed (schedule `wsd`): what is done in an epoch may depend on
        how many there are.
        """
        return None

    def penalty(self, model: Any, params: Params) -> Tensor | None:
        """A scalar added to the loss of every step, or None.

        It depends on the model's tensors and on what `adapt` left, not on how often it was called: a training may have
        been resumed.
        """
        return None

    def deploy(self, model: Any) -> nn.Module:
        """The model to ship: same logits within 1e-5, whatever only training needed merged or removed.

        Of a strategy that defines this, a saved model holds what differs from the pretrained weights alone, if that is
        the smaller part: to load it `adapt` and this are called again, on the same weights and parameters.
        """
        module: nn.Module = model
        return module


class FrozenStrategy(Strategy):
    """A strategy that fits a head on features of the frozen backbone."""

    frozen: ClassVar[bool] = True
    reserved: ClassVar[tuple[str, ...]] = ("pool",)

    together: bool = False
    """Whether `fit` takes many configurations in little more time than one: a search then asks for dozens at once."""

    @abstractmethod
    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        """One module per configuration, each mapping features [n, D] to logits [n, classes].

        `features`: training features by view (a pool's name), float32 [N, D]. `labels`: class indices [N]; every class
        occurs.
        """


class ControlStrategy(Strategy):
    """A baseline without any backbone, which every board of its modalities carries: what transfer has to beat.

    It is searched with the same effort as every other cell; its `defaults` and `space` are of its own parameters alone.
    """

    frozen: ClassVar[bool] = True
    reserved: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def prepare(self, sample: Any) -> np.ndarray:
        """What the control sees of a raw sample, computed once per sample."""

    @abstractmethod
    def fit(
        self, arrays: Sequence[np.ndarray], labels: np.ndarray, classes: int, params: Params, seed: int
    ) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Learn from prepared samples: a function from such samples to logits [n, classes].

        `labels`: class indices int64 [N]; every class occurs.
        """
