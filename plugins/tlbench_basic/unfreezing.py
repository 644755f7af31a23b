"""Unfreezing: layers near the input stay as they are, to the end or for some epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from tlbench.parameters import number, whole_number
from tlbench.spaces import Context, Params, Suggest, training_space
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.groups import backbone_part, check_rates, fresh_part, layer_decay
from tlbench_basic.recipes import fine_tuning, fine_tuning_rates, layer_decay_space, rate_scale_space

_FRACTIONS = (0.25, 0.5, 0.75, 1.0)


@final
class PartialFineTuning(TrainedStrategy):
    """The first `frozen_blocks` layer groups of the backbone stay frozen, all else trains as in full fine-tuning.

    The layer groups are those of `Backbone.layers`, counted from the input: 0 is full fine-tuning, all of them leaves
    the head alone (and the pool, where it has parameters). Freezing by block is how Quick-Tune (Arango et al. 2024)
    counts; the early layers are the most general ones (Yosinski et al. 2014).
    """

    name = "partial"
    summary = "fine-tune the last layers, freeze the first"
    default = True

    def defaults(self, context: Context) -> Params:
        """Three fifths of the layer groups stay frozen."""
        return {**fine_tuning(context), "frozen_blocks": round(0.6 * context.layer_groups)}

    def space(self, trial: Suggest, context: Context) -> Params:
        """Any number of frozen layer groups, and the ranges of full fine-tuning."""
        return {
            "frozen_blocks": trial.suggest_int("frozen_blocks", 0, context.layer_groups),
            **rate_scale_space(trial),
            **training_space(trial, context, fine_tuning_rates(context)),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse more frozen layer groups than there are, and rates that cannot be used."""
        whole_number(params, "frozen_blocks", 0, context.layer_groups)
        check_rates(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """The layer groups above the frozen ones, and the fresh part.

        Raises `BenchmarkError` for more frozen layer groups than there are.
        """
        frozen = whole_number(params, "frozen_blocks", 0, len(model.layer_groups))
        return [*backbone_part(model, frozen=frozen), fresh_part(model, params)]


@final
class GradualUnfreezing(TrainedStrategy):
    """The head first, then layer group by layer group from the top down: ULMFiT (Howard and Ruder 2018, section 3.3).

    Everything trains from the epoch on that follows `unfreeze_fraction` of all epochs, and in the last epoch in any
    case; before, the layer groups open at even distances, several at a time where they are more than the epochs. Its
    discriminative rates are `layer_decay`, as in full fine-tuning (1 / 2.6 = 0.38 in that paper).
    """

    name = "gradual-unfreeze"
    summary = "fine-tune the head first, then layer by layer from the top"

    def defaults(self, context: Context) -> Params:
        """The recipe of full fine-tuning; half of the epochs until everything trains."""
        return {**fine_tuning(context), "layer_decay": None, "unfreeze_fraction": 0.5}

    def space(self, trial: Suggest, context: Context) -> Params:
        """How long unfreezing takes, and the ranges of full fine-tuning."""
        return {
            "unfreeze_fraction": trial.suggest_categorical("unfreeze_fraction", _FRACTIONS),
            **rate_scale_space(trial),
            **layer_decay_space(trial),
            **training_space(trial, context, fine_tuning_rates(context)),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse a fraction that is none, and rates that cannot be used."""
        number(params, "unfreeze_fraction", 0.0, 1.0)
        check_rates(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """The fresh part alone."""
        return [fresh_part(model, params)]

    def begin_epoch(self, model: Any, params: Params, epoch: int, epochs: int) -> Sequence[ParameterGroup] | None:
        """The layer groups open by now, where they are more than before."""
        groups, fraction = len(model.layer_groups), number(params, "unfreeze_fraction", 0.0, 1.0)
        before = open_groups(groups, epoch - 1, epochs, fraction) if epoch else 0
        now = open_groups(groups, epoch, epochs, fraction)
        if now == before:
            return None
        decay = layer_decay(params)
        return [*backbone_part(model, frozen=groups - now, decay=decay), fresh_part(model, params)]


def open_groups(groups: int, epoch: int, epochs: int, fraction: float) -> int:
    """How many of `groups` layer groups train in `epoch` (0-based, of `epochs`), counted from the top."""
    complete = min(round(fraction * epochs), epochs - 1)
    return groups if epoch >= complete else groups * epoch // complete
