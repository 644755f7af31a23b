"""Copies: samples whose content is the same, told by the hashes of their bytes."""

from __future__ import annotations

from collections.abc import Iterable


def copies(samples: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of two and more ids with one hash, of (id, sha256 of the bytes); ids and groups in ascending order."""
    groups: dict[str, list[str]] = {}
    for identifier, digest in samples:
        groups.setdefault(digest, []).append(identifier)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))
