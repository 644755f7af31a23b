"""The card: what a reader has to know of an exported model, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlbench.components import TEXT
from tlbench.evaluation.graphs import LOGITS, ONNX, PIXELS, PT2, TOLERANCE, Graph
from tlbench.evaluation.shipped import SavedModel

MOST_CLASSES = 100
"""Class names that the card lists; preprocessing.json has all."""

_SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy", "majority_accuracy", "calibration_error")


def card(shipped: SavedModel, recipe: Mapping[str, Any], graphs: Sequence[Graph], command: str, folder: str) -> str:
    """The card of a model exported to a `folder` of this name by `command`."""
    trial = recipe["trial"]
    licence = recipe["facts"].get("licence")
    kind = "text" if shipped.modality == TEXT else shipped.modality
    title = f"{trial['backbone']['name']} with {trial['strategy']['name']} for {trial['dataset']['name']}"
    parts = [
        *([f"---\nlicense: {licence.lower()}\n---\n"] if licence else []),
        f"# {title}\n",
        f"A classifier of {kind}s with {len(shipped.class_names)} classes, fitted and exported by tlbench.\n",
        "## How good it is\n",
        _scores(recipe),
        "## What it is made of\n",
        _made_of(recipe),
        "## Classes\n",
        _classes(shipped.class_names),
        "## How to use it\n",
        _use(shipped, graphs, folder),
        "## The files\n",
        _files(graphs, any(each["weights"] for each in recipe["declared"])),
        "## Where it comes from\n",
        _provenance(recipe, command),
    ]
    return "\n".join(parts)


def _scores(recipe: Mapping[str, Any]) -> str:
    result = recipe["result"]
    if result is None:
        return "Not known: the model was exported from outside its results folder.\n"
    lines = []
    decided = "its epoch and, with other folds, its recipe" if recipe["trial"].get("fold") else "its recipe and epoch"
    for part, chosen in (("test", ""), ("validation", f", on which {decided} were chosen")):
        scores = result["scores"].get(part)
        if scores is None:
            continue
        low, high = _percent(scores["accuracy_low"]), _percent(scores["accuracy_high"])
        accuracy = f"accuracy {_percent(scores['accuracy'])} % [{low}, {high}]"
        rows = [(name, f"{_percent(scores[name])} %") for name in _SHARES if scores.get(name) is not None]
        lines.append(f"**{part}**, {scores['n']} samples{chosen}: {accuracy}\n")
        lines.append(_table(("score", part), [*rows, ("nll", f"{scores['nll']:.4f} nats")]))
    note = "In brackets the 95 % interval (Wilson): about these samples, not about data that differ from them.\n"
    return "\n".join([*lines, note])


def _made_of(recipe: Mapping[str, Any]) -> str:
    trial, facts = recipe["trial"], recipe["facts"]
    counts = (recipe["result"] or {}).get("counts", {})
    licence = facts.get("licence") or "not stated by the backbone: look it up before you pass the model on"
    shots = f", {trial['shots']} a class" if trial["shots"] else ""
    rows = [
        ("backbone", trial["backbone"]["name"]),
        ("architecture", facts.get("architecture")),
        ("pretraining", facts.get("pretraining")),
        ("pretraining data", facts.get("pretraining_data")),
        ("licence of the weights", licence),
        ("identity of the weights", trial["weights"]),
        ("strategy", f"{trial['strategy']['name']}, version {trial['strategy']['version']}"),
        ("data set", f"{trial['dataset']['name']}, fingerprint {trial['fingerprint']}"),
        ("training samples", f"{counts['train']}{shots}" if "train" in counts else None),
        ("epochs", trial["epochs"]),
        ("seed", trial["seed"]),
    ]
    recipe_rows = [(name, json.dumps(value)) for name, value in trial["params"].items()]
    return _table(("", ""), rows) + "\n" + _table(("recipe", ""), recipe_rows)


def _classes(names: Sequence[str]) -> str:
    listed = [f"{number}. {_cell(name)}" for number, name in enumerate(names[:MOST_CLASSES])]
    rest = len(names) - len(listed)
    return "\n".join([*listed, *([f"\nand {rest} more, in preprocessing.json"] if rest else [])]) + "\n"


def _use(shipped: SavedModel, graphs: Iterable[Graph], folder: str) -> str:
    is_text = shipped.modality == TEXT
    sample = '"a text"' if is_text else '"photo.jpg"'
    parts = [
        f"```sh\ntlbench predict {folder} {'table.csv' if is_text else 'photos/'}\n```\n",
        f'```python\nimport tlbench\n\nmodel = tlbench.load_model("{folder}")\n'
        f"probabilities = model([{sample}])  # float32 [samples, classes]\n```\n",
        "With other programs: preprocess as preprocessing.json says.\n",
    ]
    written = {graph.name for graph in graphs if graph.problem is None}
    if ONNX in written:
        feed = '{"input_ids": input_ids, "attention_mask": attention_mask}' if is_text else f'{{"{PIXELS}": {PIXELS}}}'
        parts.append(
            f'```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("{ONNX}")\n'
            f'({LOGITS},) = session.run(["{LOGITS}"], {feed})\n```\n'
        )
    if PT2 in written:
        given = '{"input_ids": input_ids, "attention_mask": attention_mask}' if is_text else PIXELS
        parts.append(f'```python\nimport torch\n\nlogits = torch.export.load("{PT2}").module()({given})\n```\n')
    return "\n".join(parts)


def _files(graphs: Iterable[Graph], described: bool) -> str:
    rows = [
        ("model.safetensors", "all weights, whatever was added in training merged"),
        ("recipe.json", "every fact that decided the outcome, and the scores"),
        ("preprocessing.json", "what happens to a sample before the model; class names"),
        *([("backbone/", "configuration and tokenizer of the backbone")] if described else []),
    ]
    for graph in graphs:
        if graph.problem is None:
            compared = f"logits within {graph.logits:.1e} of torch's, probabilities within {graph.probabilities:.1e}"
            rows.append((graph.name, f"the model as a graph; {compared} (allowed: {TOLERANCE:.0e})"))
        else:
            rows.append((graph.name, f"was not written: {graph.problem}"))
    return _table(("file", "what"), rows)


def _provenance(recipe: Mapping[str, Any], command: str) -> str:
    trial, result = recipe["trial"], recipe["result"] or {}
    plugins = result.get("plugins", {}).items()
    rows = [
        ("exported by", f"`{command}`"),
        ("key of the trial", recipe["key"]),
        ("finished (UTC)", result.get("ended_utc")),
        ("evaluator", trial["evaluator"]),
        *(
            (f"plugin of the {role}", f"{each['plugin']} ({each['distribution']} {each['version']})")
            for role, each in plugins
        ),
        *((name, version) for name, version in result.get("libraries", {}).items()),
    ]
    return _table(("", ""), rows)


def _table(heading: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    """A Markdown table; rows without a value are left out."""
    lines = [f"| {heading[0]} | {heading[1]} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows if value is not None]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
