"""Entry points: which plugins are installed, which of them are wanted, and who may have a contested name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from tlbench.errors import PluginError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "tlbench"
"""The entry-point group; also the name of tlbench's own distribution, whose plugins' names are reserved."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A plugin that is installed or asked for, and not used, and why. All of it printable, on one line."""

    name: str
    distribution: str | None
    """None: no distribution has it, or one that does not tell its name."""

    reason: str
    by_choice: bool = False
    """Left out by an environment variable: never an error."""


def candidates() -> tuple[list[EntryPoint], list[SetAside]]:
    """Find the entry points to load, and those that the environment variables or a contested name leave out."""
    only, disabled = _listed("TLBENCH_PLUGINS"), _listed("TLBENCH_DISABLE_PLUGINS")
    claims: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in metadata.entry_points(group=GROUP):
        claims[point.name].append(point)
    missing = "TLBENCH_PLUGINS asks for it, and no installed distribution has it"
    aside = [SetAside(name=one_line(name), distribution=None, reason=missing) for name in only - claims.keys()]
    chosen: list[EntryPoint] = []
    for name, rivals in sorted(claims.items()):
        if name in disabled:
            aside += [set_aside(point, "left out by TLBENCH_DISABLE_PLUGINS", by_choice=True) for point in rivals]
        elif only and name not in only:
            aside += [set_aside(point, "left out by TLBENCH_PLUGINS", by_choice=True) for point in rivals]
        else:
            winners, losers = _contest(rivals)
            chosen += winners
            aside += losers
    return chosen, aside


def set_aside(point: EntryPoint, reason: str, by_choice: bool = False) -> SetAside:
    """Return the line on `point`, with whatever a plugin put into its name or `reason` made printable."""
    distribution = _header(point, "Name")
    return SetAside(
        name=one_line(point.name),
        distribution=None if distribution is None else one_line(distribution),
        reason=one_line(reason),
        by_choice=by_choice,
    )


def identity(point: EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution, which every measurement records. Raises `PluginError` without."""
    name, version = _header(point, "Name"), _header(point, "Version")
    if name is None or version is None:
        raise PluginError("the metadata of its distribution lack a name or a version")
    return name, version


def check_requirements(point: EntryPoint) -> None:
    """Refuse a distribution that needs another tlbench than this one: no installer need have checked."""
    for text in _requires(point.dist) if point.dist else ():
        if not re.match(rf"\s*{GROUP}(?![A-Za-z0-9._-])", text, re.IGNORECASE):
            continue
        from packaging.requirements import Requirement  # 60 ms that most starts need not spend

        requirement, version = Requirement(text), metadata.version(GROUP)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(version, prereleases=True):
            raise PluginError(f"it requires {requirement}, and this is tlbench {version}")


def missing_requirements(distribution: str, extra: str = "") -> list[str]:
    """What an installed distribution requires, or an extra of it does besides, and this environment lacks.

    Nothing for an extra that it does not have.
    """
    missing = []
    for text in _requires(metadata.distribution(distribution)):
        if extra and "extra" not in text:
            continue
        from packaging.requirements import Requirement  # 60 ms that most starts need not spend

        requirement = Requirement(text)
        marker = requirement.marker
        always, asked = (marker is None or marker.evaluate({"extra": name}) for name in ("", extra))
        if asked and (not extra or not always) and (problem := _unmet(requirement)):
            missing.append(problem)
    return missing


def one_line(text: str) -> str:
    """Make any text printable, on one line of bearable length."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    words = " ".join(plain.split())
    return words if len(words) <= 500 else words[:499] + "…"


def _unmet(requirement: Requirement) -> str:
    """The requirement that this environment does not meet; empty where it does."""
    try:
        installed = metadata.version(requirement.name)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        return requirement.name
    fits = requirement.specifier.contains(installed, prereleases=True)
    return "" if fits else f"{requirement.name}{requirement.specifier} ({installed} is installed)"


def _contest(rivals: list[EntryPoint]) -> tuple[list[EntryPoint], list[SetAside]]:
    """Give a name to tlbench itself, else to the only one that claims it, else to nobody."""
    own = [point for point in rivals if _is_own(point)]
    if own:
        reason = "the name is reserved for tlbench's own plugin; an entry point of another name is needed"
        return own, [set_aside(point, reason) for point in rivals if not _is_own(point)]
    if len(rivals) == 1:
        return rivals, []
    claimants = ", ".join(sorted(_header(point, "Name") or "unknown" for point in rivals))
    return [], [set_aside(point, f"the name is claimed more than once: {claimants}") for point in rivals]


def _is_own(point: EntryPoint) -> bool:
    return re.sub(r"[-_.]+", "-", _header(point, "Name") or "").lower() == GROUP


def _header(point: EntryPoint, header: str) -> str | None:
    """Read one header of the distribution's METADATA, a file that half-removed distributions lack."""
    described = _metadata(point.dist) if point.dist else None
    return described[header] if described is not None and header in described else None


@lru_cache(maxsize=16)  # parsing takes 1 ms, and a distribution of ten plugins is asked fifty times
def _metadata(distribution: metadata.Distribution) -> metadata.PackageMetadata | None:
    try:
        return distribution.metadata
    except FileNotFoundError:  # of importlib_metadata 9, which takes the place of Python's own once it is imported
        return None


@lru_cache(maxsize=16)
def _requires(distribution: metadata.Distribution) -> tuple[str, ...]:
    try:
        return tuple(distribution.requires or ())
    except FileNotFoundError:  # likewise
        return ()


def _listed(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",")} - {""}
