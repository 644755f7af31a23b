"""How long commands that only list take to start, next to `python -c pass`.

    python benchmarks/performance/startup.py

prints a Markdown table. Every round times all of them in turn, each in a process of its own, with modules compiled
before; reported are the shortest time of each, how many times as long as bare Python's shortest that is, and the median
and the quartiles of that ratio within a round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np

BARE = "python -c pass"
COMMANDS = ["--help", "plugins", "list backbones", "list backbones --all"]


def main() -> None:
    """Time, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    programs = {BARE: "pass"} | {
        command: f"from tlbench.cli import main; main({command.split()!r})" for command in COMMANDS
    }
    for program in programs.values():
        elapsed_s(program)
    times_s = np.array([[elapsed_s(program) for program in programs.values()] for _ in range(rounds)])
    shortest_s, ratios = times_s.min(axis=0), times_s / times_s[:, :1]
    print("| command | shortest, ms | of bare Python's | within a round |\n|---|--:|--:|--:|")
    for column, name in enumerate(programs):
        low, median, high = np.quantile(ratios[:, column], [0.25, 0.5, 0.75])
        share = shortest_s[column] / shortest_s[0]
        print(f"| `{name}` | {1e3 * shortest_s[column]:.0f} | {share:.1f} | {median:.1f} [{low:.1f}, {high:.1f}] |")


def elapsed_s(program: str) -> float:
    """Seconds that a fresh interpreter takes for `program`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
