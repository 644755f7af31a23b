"""Search for the best pretrained backbone, and the best way to adapt it, for the data and machine at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlbench.api import find_best, load_model, read_leaderboard, run_benchmark

__all__ = ["find_best", "load_model", "read_leaderboard", "run_benchmark"]


def __getattr__(name: str) -> Any:
    """The interface, imported when it is first used: `import tlbench` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'tlbench' has no attribute '{name}'")
    from tlbench import api

    return getattr(api, name)
