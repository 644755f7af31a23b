"""The card of a pretrained network: what it is, what it was made from and how, and what it knows."""

from __future__ import annotations

from collections.abc import Mapping

from tlbench_zoo.backbone import MINIATURES
from tlbench_zoo.recipes import RATE_SCALES, Recipe

_CARD = """\
# {name}

A miniature {family} for images of 32 x 32 pixels, pretrained by tlbench on rendered formulas.

| what | |
|---|---|
| parameters | {parameters:,}, without a classifier |
| input | RGB, 32 x 32 pixels, scaled to [0, 1], less 0.5, divided by 0.25 |
| pretraining data | {images:,} images of {shapes} shapes (fractals, contours, curves), each rendered for its one use: \
no photograph, no person, nobody's work |
| objective | formula-driven supervision: shape, textures, palettes, mean colours and where the shape is |
| recipe | {steps:,} steps of {batch} images, AdamW, rate {rate:g} with a warm-up of {warmup} steps and a cosine to 0, \
weight decay {decay:g} |
| command | `{command}` |
| made with | {made_with} |
| told right in {evaluated:,} new images | {accuracy} |
| file | sha256 {digest}, float16 |
| licence | Apache-2.0 |

It is there to show, test and compare ways to transfer where nothing can be downloaded. How well it transfers is in the
zoo's README; for photographs of your own take a backbone that has seen photographs.
"""


def card(
    name: str,
    recipe: Recipe,
    *,
    command: str,
    made_with: str,
    accuracy: Mapping[str, float],
    classes: Mapping[str, int],
    digest: str,
) -> str:
    """Write the card in Markdown; `accuracy` are fractions by property, `classes` how many each has."""
    (miniature,) = (miniature for miniature in MINIATURES if miniature.name == name)
    told = (f"{property_} {100 * value:.1f} % (of {classes[property_]})" for property_, value in accuracy.items())
    return _CARD.format(
        name=name,
        family=miniature.family,
        parameters=miniature.parameters,
        images=recipe.steps * recipe.batch,
        shapes=classes["shape"],
        steps=recipe.steps,
        batch=recipe.batch,
        rate=recipe.learning_rate * RATE_SCALES.get(name, 1.0),
        warmup=recipe.warmup,
        decay=recipe.weight_decay,
        command=command,
        made_with=made_with,
        evaluated=recipe.evaluated,
        accuracy=", ".join(told),
        digest=digest,
    )
