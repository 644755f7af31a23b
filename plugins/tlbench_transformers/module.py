"""The module: a model of transformers with timm's two methods, features and their pooling."""

from __future__ import annotations

import inspect
from typing import Any, final

import torch
from torch import Tensor, nn

from tlbench.evaluation.pool import Pool

_NORM_AFTER_POOLING = {"convnext": "layernorm", "convnextv2": "layernorm"}
"""Model types whose last normalisation takes pooled features, and its name."""


@final
class TextModel(nn.Module):
    """A text model: inputs ``{"input_ids", "attention_mask"}``, both int64 [n, length], padded on the right.

    Padding changes nothing but in architectures where neighbours count whatever the mask says: the embeddings of
    MobileBERT, of three tokens each, and convolutions of ConvBERT, YOSO and Nyströmformer reach into the padding, so
    that features depend on the longest text of the batch.
    """

    def __init__(self, model: nn.Module, pooling: str) -> None:
        """Take the bare model and its own way to pool, as `tlbench.evaluation.pool.Pool` names it."""
        super().__init__()
        self.model = model
        self.pool = Pool(pooling, "NLC", 0)

    def forward_features(self, inputs: Any) -> Tensor:
        """Last hidden states [n, length, width].

        Some architectures look at values on the way, which the meta device does not have: there the shape is told.
        """
        ids = inputs["input_ids"]
        try:
            mask = None if ids.is_meta else inputs["attention_mask"]
            features: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        except (RuntimeError, NotImplementedError):
            if not ids.is_meta:
                raise
            config: Any = self.model.config
            features = torch.empty(*ids.shape, config.hidden_size, device="meta")
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True, attention_mask: Tensor | None = None) -> Tensor:
        """Features pooled the model's own way [n, width]; there are no logits."""
        pooled: Tensor = self.pool(self, features, attention_mask)
        return pooled

    def forward(self, inputs: Any) -> Tensor:
        """Pooled features [n, width]."""
        return self.forward_head(self.forward_features(inputs), attention_mask=inputs["attention_mask"])


@final
class ImageModel(nn.Module):
    """A vision model: inputs float32 [n, 3, height, width]."""

    def __init__(self, model: nn.Module, pool: Pool) -> None:
        """Take the bare model and its own way to pool."""
        super().__init__()
        self.model, self.pool = model, pool

    def forward_features(self, images: Tensor) -> Tensor:
        """Last hidden states, a map or tokens."""
        return image_features(self.model, images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Features pooled the model's own way [n, width]; there are no logits."""
        pooled: Tensor = self.pool(self, features)
        config: Any = self.model.config
        norm = _NORM_AFTER_POOLING.get(config.model_type)
        return pooled if norm is None else getattr(self.model, norm)(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features [n, width]."""
        return self.forward_head(self.forward_features(images))


def image_features(model: nn.Module, images: Tensor) -> Tensor:
    """Last hidden states of a vision model of transformers, its position embeddings fitted to the images' size."""
    known = inspect.signature(model.forward).parameters
    fitted = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
    features: Tensor = model(pixel_values=images, **fitted).last_hidden_state
    return features
