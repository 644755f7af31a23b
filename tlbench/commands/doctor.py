"""The doctor: the command that says what this environment has, and what would make it better."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> None:
    """Say what this environment has, and what would make it better.

    Versions, devices, threads, caches, whether the Hugging Face hub can be reached, plugins and observers.
    """
    from tlbench.doctor import examine

    found = examine()
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, section in found.items():
        if name not in ("imports", "advice"):
            yield from (name.replace("_", " "), *(f"  {line}" for line in _section(name, section)), "")
    advice = found["advice"]
    yield from ("what would make this better", *(f"  {line}" for line in advice)) if advice else ("nothing is wrong",)


def _section(name: str, section: Any) -> Iterator[str]:
    if isinstance(section, Mapping) and "error" in section:
        yield f"unknown: {section['error']}"
    elif name == "gpus":
        yield from (_gpu(gpu) for gpu in section) if section else ("none that torch sees",)
    elif name == "folders":
        yield from (_folder(*item) for item in section.items())
    elif name == "hugging_face_hub":
        yield "reachable" if section["reachable"] else f"offline: {section['reason']}"
    elif name == "plugins":
        yield f"active     {', '.join(section['active'])}"
        yield from (f"set aside  {aside['name']}: {aside['reason']}" for aside in section["set_aside"])
        yield from (f"observer   {observer}: {state}" for observer, state in section["observers"].items())
    else:
        yield from (f"{item.replace('_', ' '):25} {_text(value)}" for item, value in section.items())


def _gpu(gpu: Mapping[str, Any]) -> str:
    return f"{gpu['name']}, {gpu['memory_mib']} MiB, capability {gpu['capability']}, {', '.join(gpu['dtypes'])}"


def _folder(name: str, folder: Mapping[str, Any]) -> str:
    from tlbench import caches

    taken = f"{caches.text(folder['size_bytes'])}, " if "size_bytes" in folder else ""
    return f"{name.replace('_', ' '):25} {folder['path']}: {taken}{caches.text(folder['free_bytes'])} free"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
