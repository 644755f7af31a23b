"""Seeds for random generators: one per purpose, derived by hashing names, never drawn from another generator."""

from __future__ import annotations

import hashlib


def derive_seed(*names: object) -> int:
    """A seed in [0, 2**63) that depends on every one of `names` and on nothing else.

    Consuming one generator therefore never moves another one (pitfall 18: merely iterating a DataLoader advances
    torch's global generator, so that sampled subsets came to depend on the state of a cache).
    """
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def hash_order(ids: list[str], *names: object) -> list[int]:
    """A permutation of range(len(ids)) that depends on the ids and `names`, not on the order in which ids come."""
    prefix = "\x1f".join(str(name) for name in names)
    digests = [hashlib.sha256(f"{prefix}\x1f{identifier}".encode()).digest() for identifier in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)
