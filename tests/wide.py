"""Features that are hard to fit a probe on."""

import torch


def wide(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """More features than samples, of very different scales and offsets."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % classes
    features = torch.randn(40, 100, generator=generator)
    features[:, :classes] += 2 * torch.nn.functional.one_hot(labels)
    return features * torch.logspace(-1, 1, 100) + torch.linspace(-5, 5, 100), labels
