"""Graphs: a fitted model as ONNX and as torch.export's program, each compared with the model it was made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.components import IMAGE, TEXT
from tlbench.errors import TlbenchError
from tlbench.evaluation.hub import one_line
from tlbench.evaluation.quiet import silence
from tlbench.evaluation.shipped import SavedModel, probabilities

TOLERANCE = 1e-4
"""Largest difference of a probability, and of a logit relative to the largest one where that is above 1."""

ONNX, PT2 = "model.onnx", "model.pt2"
REQUIRED = {ONNX: ("onnx", "onnxscript", "onnxruntime"), PT2: ()}
"""Optional libraries that a file needs to be written and checked."""

PIXELS, LOGITS = "pixels", "logits"
"""Names of a graph's input, where the model's inputs are no mapping with names of its own, and of its output."""

_ROWS = 4
_SENTENCES = (
    "good",
    "not what was promised, and late",
    "The second half is better than the first, although nobody would call either of them short.",
    " ".join(["A long text that says again and again what it has said before, in the same words."] * 6),
)


@final
@dataclass(frozen=True, kw_only=True)
class Graph:
    """What came of writing one file."""

    name: str
    logits: float | None = None
    """Largest absolute difference from the model's logits; None where nothing could be compared."""

    probabilities: float | None = None
    problem: str | None = None
    """Why there is no such file."""


def lacking(name: str) -> list[str]:
    """Libraries that writing the file `name` needs and this environment has not."""
    return [library for library in REQUIRED[name] if find_spec(library) is None]


def write_graphs(shipped: SavedModel, folder: Path, names: Sequence[str]) -> list[Graph]:
    """Write files into `folder`, for batches and texts of any length; a file that fails or differs is not left there.

    They are compared with the model on made-up samples of several sizes, one alone and several together.
    """
    batches = _batches(shipped)
    written: list[Graph] = []
    program: Any = None
    for name in names:
        try:
            with silence():
                program = program or _program(shipped, batches[0])
                run = _WRITERS[name](program, batches[0], folder / name)
                written.append(_compared(name, shipped, run, batches))
        except Exception as error:  # exporters raise whatever an architecture drives them to
            written.append(Graph(name=name, problem=f"this architecture cannot be exported: {_plain(error)}"))
        if written[-1].problem is not None:
            for file in folder.glob(f"{name}*"):
                file.unlink()
    return written


def _batches(shipped: SavedModel) -> list[Any]:
    """Inputs to compare on. The first, of several samples that differ in length, is what the graph is traced with."""
    made = [shipped.prepared(sample) for sample in _made_up(shipped.modality)]
    made = made or [shipped.preprocess.example()] * _ROWS
    groups = [made[:3], made[:1], made]
    device = torch.device("cpu")
    return [shipped.preprocess.batch(group, {}, False, torch.Generator(), device) for group in groups]


def _made_up(modality: str) -> Sequence[Any]:
    """Raw samples of several sizes; none where the modality is a plugin's own."""
    if modality == TEXT:
        return _SENTENCES
    if modality != IMAGE:
        return ()
    generator = np.random.default_rng(0)
    blocks = [generator.integers(0, 256, (4, 5, 3), dtype=np.uint8) for _ in range(_ROWS)]
    return [block.repeat(40 + 9 * number, 0).repeat(48, 1) for number, block in enumerate(blocks)]


def _program(shipped: SavedModel, inputs: Any) -> Any:
    """The model as a graph whose first axis, and the second of texts, may have any length."""
    dynamic: Any = {0: torch.export.Dim.DYNAMIC}
    if not isinstance(inputs, Tensor):
        dynamic = {
            name: dict.fromkeys(range(min(2, each.ndim)), torch.export.Dim.DYNAMIC) for name, each in inputs.items()
        }
    with torch.no_grad():
        return torch.export.export(shipped.model, (inputs,), dynamic_shapes=(dynamic,), strict=False)


Run = Callable[[Any], np.ndarray]
"""From inputs to logits."""


def open_onnx(file: Path, threads: int = 0) -> Run:
    """An ONNX graph, run by ONNX Runtime on the CPU with so many threads; 0: as many as it likes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}

    def run(inputs: Any) -> np.ndarray:
        named: Mapping[str, Tensor] = {PIXELS: inputs} if isinstance(inputs, Tensor) else inputs
        logits: np.ndarray = session.run([LOGITS], {n: each.numpy() for n, each in named.items() if n in taken})[0]
        return logits

    return run


def _write_onnx(program: Any, inputs: Any, file: Path) -> Run:
    names = [PIXELS] if isinstance(inputs, Tensor) else list(inputs)
    made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=[LOGITS])
    assert made is not None
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int):
                value.shape[axis] = ("batch", "length")[axis]
    made.save(file)
    return open_onnx(file)


def _write_pt2(program: Any, _: Any, file: Path) -> Run:
    torch.export.save(program, file)
    module = torch.export.load(file).module()

    def run(inputs: Any) -> np.ndarray:
        logits: np.ndarray = module(inputs).detach().numpy()
        return logits

    return run


_WRITERS: Mapping[str, Callable[[Any, Any, Path], Run]] = {ONNX: _write_onnx, PT2: _write_pt2}


def _compared(name: str, shipped: SavedModel, run: Run, batches: Sequence[Any]) -> Graph:
    logits, chances, allowed = 0.0, 0.0, True
    for inputs in batches:
        with torch.no_grad():
            expected = shipped.model(inputs).numpy()
        found = run(inputs)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return Graph(name=name, problem=f"it does not compute {expected.shape[1]} finite logits per sample")
        apart = float(np.abs(found - expected).max())
        between = float(np.abs(probabilities(found) - probabilities(expected)).max())
        allowed &= between <= TOLERANCE and apart <= TOLERANCE * max(1.0, float(np.abs(expected).max()))
        logits, chances = max(logits, apart), max(chances, between)
    differing = f"it disagrees with the model: logits by {logits:.1e}, probabilities by {chances:.1e}"
    problem = None if allowed else f"{differing}; {TOLERANCE:.0e} is allowed"
    return Graph(name=name, logits=logits, probabilities=chances, problem=problem)


def _plain(error: Exception) -> str:
    """One line without colours; what a library's wrapper says is less than what it wraps."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return str(error) if isinstance(error, TlbenchError) else re.sub(r"\x1b\[[0-9;]*m", "", one_line(cause))
