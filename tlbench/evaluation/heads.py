"""Heads: from features to logits, and back from a stored description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlbench.errors import BenchmarkError
from tlbench.spaces import Params

_ATTENTION_HEADS = 8


@final
class LinearHead(nn.Linear):
    """Dropout, then a linear map to logits; its state is that of a plain `nn.Linear`."""

    kind = "linear"

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__(width, classes)
        self.dropout = dropout

    @property
    def description(self) -> dict[str, Any]:
        """What `restored` needs to build the same head."""
        return {"kind": self.kind, "width": self.in_features, "classes": self.out_features}

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, width]."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


@final
class MlpHead(nn.Module):
    """One hidden layer of rectified linear units, dropout before each of the two maps."""

    kind = "mlp"

    def __init__(self, width: int, hidden: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(width, hidden), nn.Linear(hidden, classes)
        self.dropout = dropout

    @property
    def description(self) -> dict[str, Any]:
        """What `restored` needs to build the same head."""
        width, hidden = self.hidden.in_features, self.hidden.out_features
        return {"kind": self.kind, "width": width, "hidden": hidden, "classes": self.output.out_features}

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, width]."""
        features = functional.dropout(features, self.dropout, self.training)
        hidden = functional.relu(self.hidden(features))
        logits: Tensor = self.output(functional.dropout(hidden, self.dropout, self.training))
        return logits


@final
class NeighbourHead(nn.Module):
    """Nearest neighbours by cosine similarity, their votes weighted by ``exp(similarity / temperature)``.

    The weighting is that of Wu et al. (2018), which DINO (Caron et al. 2021) uses with temperature 0.07. Logits are
    the logarithms of the classes' shares of the vote.
    """

    kind = "neighbours"

    def __init__(self, width: int, samples: int, classes: int, neighbours: int, temperature: float) -> None:
        super().__init__()
        self.classes, self.neighbours, self.temperature = classes, neighbours, temperature
        self.bank: Tensor
        self.labels: Tensor
        self.register_buffer("bank", torch.zeros(samples, width))
        self.register_buffer("labels", torch.zeros(samples, dtype=torch.int64))

    @property
    def description(self) -> dict[str, Any]:
        """What `restored` needs to build the same head."""
        samples, width = self.bank.shape
        return {
            "kind": self.kind,
            "width": width,
            "samples": samples,
            "classes": self.classes,
            "neighbours": self.neighbours,
            "temperature": self.temperature,
        }

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Keep training features [samples, width], scaled to length 1, and their labels [samples]."""
        self.bank.copy_(functional.normalize(features.float()))
        self.labels.copy_(labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, width]."""
        similarities = functional.normalize(features.float()) @ self.bank.T
        nearest, found = similarities.topk(min(self.neighbours, len(self.bank)), dim=1)
        return vote(nearest, self.labels[found], self.classes, self.temperature)


@final
class ConvHead(nn.Module):
    """A convolution over positions, rectified, averaged over all positions, then a linear map to logits.

    Maps [n, height, width, channels] take 3 x 3 kernels, sequences [n, length, channels] kernels of length 3.
    """

    kind = "conv"

    def __init__(self, axes: int, width: int, hidden: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        convolution = nn.Conv2d if axes == 2 else nn.Conv1d
        self.axes, self.dropout = axes, dropout
        self.convolution = convolution(width, hidden, 3, padding=1)
        self.output = nn.Linear(hidden, classes)

    @property
    def description(self) -> dict[str, Any]:
        """What `restored` needs to build the same head."""
        width, hidden = self.convolution.in_channels, self.convolution.out_channels
        classes = self.output.out_features
        return {"kind": self.kind, "axes": self.axes, "width": width, "hidden": hidden, "classes": classes}

    def forward(self, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [n, classes] of positions [n, *axes, width], of which `mask` [n, length] says which count."""
        if mask is not None:
            positions = positions * mask[..., None]
        maps = functional.relu(self.convolution(positions.movedim(-1, 1))).movedim(1, -1).flatten(1, -2)
        pooled = functional.dropout(masked_mean(maps, mask), self.dropout, self.training)
        logits: Tensor = self.output(pooled)
        return logits


@final
class AttentionHead(nn.Module):
    """Attention pooling: a learned query attends to all positions; then a linear map to logits.

    The pooling of Set Transformer (Lee et al. 2019), which attentive probes use.
    """

    kind = "attention"

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        heads = max(number for number in range(1, _ATTENTION_HEADS + 1) if width % number == 0)
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.output = nn.Linear(width, classes)

    @property
    def description(self) -> dict[str, Any]:
        """What `restored` needs to build the same head."""
        return {"kind": self.kind, "width": self.output.in_features, "classes": self.output.out_features}

    def forward(self, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [n, classes] of positions [n, *axes, width], of which `mask` [n, length] says which count."""
        positions = self.norm(positions.flatten(1, -2))
        query = self.query.expand(positions.shape[0], -1, -1)
        ignored = None if mask is None else mask == 0
        pooled, _ = self.attention(query, positions, positions, key_padding_mask=ignored, need_weights=False)
        logits: Tensor = self.output(functional.dropout(pooled[:, 0], self.dropout, self.training))
        return logits


POOLED = (LinearHead, MlpHead, NeighbourHead)
"""Heads that take pooled features."""

UNPOOLED = (ConvHead, AttentionHead)
"""Heads that take unpooled features."""

_KINDS: Mapping[str, type[nn.Module]] = {
    head.kind: head for head in (LinearHead, MlpHead, NeighbourHead, ConvHead, AttentionHead)
}


def fresh(params: Params, *, width: int, axes: int, channels: int, classes: int) -> nn.Module:
    """The head that a recipe asks for, with weights from torch's global generator.

    `width`: of pooled features. `axes`, `channels`: of unpooled ones; 0 axes where they have no positions.
    """
    name, hidden, dropout = params["head"], params["head_width"], params["dropout"]
    if name == "linear":
        return LinearHead(width, classes, dropout)
    if name == "mlp":
        return MlpHead(width, hidden, classes, dropout)
    if not axes:
        raise BenchmarkError(f"the head '{name}' needs features with positions; 'linear' and 'mlp' take pooled ones")
    if name == "conv":
        return ConvHead(axes, channels, hidden, classes, dropout)
    return AttentionHead(channels, classes, dropout)


def restored(description: Mapping[str, Any]) -> nn.Module:
    """The head that `description` describes, its weights still to be loaded. Raises `KeyError` for an unknown kind."""
    options = dict(description)
    return _KINDS[options.pop("kind")](**options)


def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Logits [n, classes] by the neighbours' similarities [n, k], the largest first, and their labels [n, k]."""
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    votes = weights.new_zeros(weights.shape[0], classes).scatter_add_(1, labels, weights)
    # Classes without a vote share what one vote in 1,000 would weigh, so that every logit is finite.
    return ((votes + 1e-3 / classes) / (weights.sum(1, keepdim=True) + 1e-3)).log()


def masked_mean(positions: Tensor, mask: Tensor | None) -> Tensor:
    """Mean [n, channels] over positions [n, length, channels] that `mask` [n, length] lets count."""
    if mask is None:
        return positions.mean(1)
    counted = mask[..., None].to(positions.dtype)
    return (positions * counted).sum(1) / counted.sum(1).clamp(min=1)
