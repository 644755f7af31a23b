"""The fingerprint of a data set: one hash over every sample's id, label and bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def fingerprint(samples: Iterable[tuple[str, int, str]]) -> str:
    """`sha256:` and the hash over the sorted (id, label, sha256 of the bytes)."""
    total = hashlib.sha256()
    for identifier, label, digest in sorted(samples):
        total.update(f"{identifier}\x1f{label}\x1f{digest}\n".encode())
    return f"sha256:{total.hexdigest()}"
