"""Components: what a plugin hands over. Every class here is abstract or final: never both used and subclassed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.errors import BenchmarkError, DataError
from tlbench.spaces import Params

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

IMAGE = "image"
"""The modality whose samples are uint8 RGB arrays of shape [height, width, 3]."""

TEXT = "text"
"""The modality whose samples are `str`."""


class Component(ABC):
    """What every component says of itself. Attributes of the class or of the instance, or properties.

    The full name, `plugin/name`, is given by the registry.
    """

    name: str
    """Unique in its plugin: letters, digits and ``. _ - @ / :``, starting with a letter or digit."""

    summary: str
    """One line for `tlbench list`."""

    version: int = 1
    """Raised when results stop being comparable with those of the version before."""


@final
@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a backbone without loading it. Unknown is None."""

    architecture: str | None = None
    """The architecture's name, without the tag of the weights: `resnet50`."""

    kind: str | None = None
    """`convolutional`, `transformer`, `hybrid` or `mlp`: decides default learning rates."""

    pretraining: str | None = None
    """How the weights were made: `supervised`, `self-supervised`, `image-text`, ..."""

    pretraining_data: str | None = None
    """What the weights were made from: `ImageNet-1k`, ..."""

    parameters: int | None = None
    """Number of parameters without a classifier head."""

    macs: int | None = None
    """Multiply-accumulates for one sample of the usual size, without a classifier head: half of torch's FLOPs."""

    accuracy: float | None = None
    """Published ImageNet-1k top-1 accuracy, a fraction in [0, 1]."""

    licence: str | None = None
    """SPDX identifier of the weights' licence."""


class Preprocess(ABC):
    """From a raw sample to a model's input. The engine stores the arrays and never looks inside."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON of every choice that changes an input. Part of the trial's key."""

    @property
    def in_words(self) -> Sequence[str]:
        """What is done to a raw sample, step by step, for who has to do the same with another program."""
        return (f"Prepare the sample as {type(self).__module__}.{type(self).__qualname__} does.",)

    @abstractmethod
    def prepare(self, sample: Any) -> np.ndarray:
        """The deterministic part, done once per sample: its result is what gets cached."""

    @abstractmethod
    def batch(
        self,
        arrays: Sequence[np.ndarray],
        params: Params,
        training: bool,
        generator: torch.Generator,
        device: torch.device,
    ) -> Any:
        """Model inputs for `arrays`: collation, normalisation and, when `training`, augmentation as `params` say.

        A tensor, or a mapping of tensors, samples along the first axis. Where samples differ in length, the mapping
        has `attention_mask` [n, length], 1 for what belongs to a sample and 0 for padding: pools and heads heed it.
        All randomness comes from `generator` (a CPU generator).
        """

    @abstractmethod
    def example(self) -> np.ndarray:
        """A prepared array of the usual shape, for a dummy forward."""

    def elements(self, array: np.ndarray) -> int:
        """How much of the device a prepared array takes, in input elements (pixels times channels).

        Decides how many samples go through a model at once.
        """
        return int(array.size)

    def mix(
        self, inputs: Any, labels: Tensor, classes: int, params: Params, generator: torch.Generator
    ) -> tuple[Any, Tensor]:
        """Mix samples of a training batch (mixup, cutmix) as `params` say: inputs and soft targets [n, classes].

        A modality that cannot be mixed returns both unchanged (labels as class indices [n]).
        """
        return inputs, labels


class Backbone(Component):
    """A pretrained model without its classifier."""

    modality: str
    """A word that data sets agree on: `image`, `text`, ..."""

    default: bool = False
    """Whether the backbone belongs to the pool that a search without a list uses."""

    layout: str = "NCHW"
    """Axes of what `forward_features` returns: NCHW, NHWC or NLC."""

    prefix_tokens: int = 0
    """For NLC: how many tokens before the patches or words (class token, registers)."""

    pools: tuple[str, ...] = ("native",)
    """How unpooled features may be pooled; `native`, the model's own way, comes first.

    `cls` (the first token), `avg`, `max`, `gem` (generalised mean, of maps), `last` (the last token that is no
    padding), and combinations such as `cls+avg`.
    """

    drop_path: bool = False
    """Whether `load` takes ``drop_path=``, a highest rate of stochastic depth in [0, 1)."""

    found_in: tuple[str, Path] | None = None
    """Of a folder found under a relative name: a base of the same plugin that derives it, and the absolute path.

    A saved model is loaded by them from any working directory. None: the name alone is found anywhere.
    """

    @property
    def described_in(self) -> tuple[str, Path] | None:
        """A base as in `found_in`, and a folder on this machine from which it derives the same without its weights.

        An exported model takes the folder along. None: the plugin needs no files besides its own.
        """
        return self.found_in

    @property
    def facts(self) -> Facts:
        """What is known without loading anything."""
        return Facts()

    @property
    @abstractmethod
    def preprocess(self) -> Preprocess:
        """The preprocessing that belongs to the weights."""

    @abstractmethod
    def weights(self) -> str:
        """Identity of the pretrained weights: the hub's commit, or `sha256:` and the hash of the file.

        Fetches them where they are not on this machine. Raises `WeightsError` where that cannot be done; the message
        names the weights, the cache looked in and what to do.
        """

    def random_weights(self) -> str:
        """Identity of fresh weights: `random`, and a hash of the files that describe the architecture, if any do.

        Part of the trial's key, as `weights` is: an architecture that name and declaration do not decide is told here.
        """
        return "random"

    @abstractmethod
    def load(self, pretrained: bool) -> nn.Module:
        """The model, on the CPU in float32, or on the meta device inside ``with torch.device("meta")``.

        It has timm's two methods: `forward_features(x)`, unpooled features, and `forward_head(x, pre_logits=True)`,
        pooled ones [n, width], which is also given `attention_mask=` where the inputs have one. Without `pretrained`,
        fresh weights drawn from torch's global generator.
        """

    @abstractmethod
    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """Groups of names of `module`'s parameters from input to output; every parameter exactly once."""

    def recognises(self, path: Path) -> bool:
        """Whether `derive` with this path as `weights`, a file or folder that exists, gives a backbone of this kind."""
        return False

    def derive(
        self, *, name: str, weights: Path | None, options: Mapping[str, Any], preprocess: Mapping[str, Any]
    ) -> Backbone:
        """The same architecture as a benchmark file declares it: own weights, builder options, preprocessing."""
        raise BenchmarkError(f"backbone '{name}': its base '{self.name}' takes no declaration of its own")


@final
@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, map-style: `split[i]` decodes sample i; ids and labels are known without decoding."""

    ids: Sequence[str]
    """Stable and unique: they decide every split made from this one."""

    labels: Sequence[int]
    """Index into `class_names`, one per sample."""

    class_names: Sequence[str]
    samples: Any
    """Anything with `__getitem__(int)` that returns the raw sample."""

    def __post_init__(self) -> None:
        """Refuse ids that repeat, labels without a class and lengths that disagree."""
        if len(self.ids) != len(self.labels):
            raise DataError(f"{len(self.ids)} sample ids but {len(self.labels)} labels")
        if len(set(self.ids)) != len(self.ids):
            raise DataError("sample ids are not unique")
        if any(not 0 <= label < len(self.class_names) for label in self.labels):
            raise DataError("a label has no class name")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        """The raw sample at `index`."""
        return self.samples[index]


@final
@dataclass(frozen=True)
class Splits:
    """What a data set gives to search and training. The test split has a door of its own."""

    train: Split
    validation: Split | None = None
    """None: a fifth of train is taken, stratified, by the split seed."""


@final
@dataclass(frozen=True)
class Problem:
    """A sample that cannot be used, and why."""

    sample_id: str
    reason: str
    place: str = ""
    """Where it lies, such as `row 3 of reviews.csv`, where the id does not say it."""

    def __str__(self) -> str:
        """Where it lies and what is wrong with it, on one line."""
        return " ".join(f"{self.place or self.sample_id}: {self.reason}".split())


class Dataset(Component):
    """Labelled samples of one modality."""

    modality: str
    task: str = "classification"
    """`classification` (single-label) is what is built; another task is refused in one line."""

    has_test: bool = True
    """Whether `load_test` has a split of its own; else a fifth of train is taken first, stratified."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash over the sorted (sample id, label, bytes) of all splits: changed data is another question."""

    @abstractmethod
    def load(self, seed: int) -> Splits:
        """Training and, where the data set has it, validation data. `seed` is the split seed."""

    @abstractmethod
    def load_test(self, seed: int) -> Split:
        """The test split. Called by the engine for finals alone; never called where `has_test` is False."""

    def problems(self) -> Sequence[Problem]:
        """Samples of any split that are empty or do not decode, found before anything is trained."""
        return ()

    def recognises(self, path: Path) -> bool:
        """Whether `derive` with this path, a file or folder that exists, gives a data set of this kind.

        Looks at names alone. May raise `DataError` to say what a data set at this path lacks.
        """
        return False

    def duplicates(self) -> Sequence[Sequence[str]]:
        """Groups of ids of two and more usable samples with the same content, in one split or in several.

        Found without decoding, from the hashes that make the fingerprint; labels may differ.
        """
        return ()

    def derive(self, *, name: str, path: Path | None, options: Mapping[str, Any]) -> Dataset:
        """The same kind of data set at a place of the user's, as a benchmark file declares it."""
        if path is not None or options:
            raise BenchmarkError(f"data set '{name}': its base '{self.name}' takes neither path nor options")
        return self
