"""What the probes of one feature view take in one go, next to scikit-learn's estimators one after another.

    TLBENCH_REAL_DATA=/where/it/is python benchmarks/performance/probe_kernels.py

prints Markdown tables. Every round times all competitors in turn; reported are the shortest time of each, and the
median and the quartiles of its ratio to the kernel's in the same round: of the wall clock, and of the CPU time of all
threads, which other work on the machine changes less. The features are synthetic (5,000 x 512, ten classes) and, where
`TLBENCH_REAL_DATA` is set, those of a pretrained MobileNet (512 wide) for its 2,000 training photos. All competitors
get the same features, penalties and number of threads; the others' are standardised already, the kernels' time includes
that and the eigendecomposition.

`logistic` is scikit-learn's `LogisticRegression` at its defaults but for `max_iter`, one fit per penalty, each from
nothing; `float32` the same on features in float32. Excess is how far objectives, computed in float64 from weights and
intercepts, lie above the minimum, which the kernel finds in float64 at a tolerance of 1e-10.

`ridge loop` is a `RidgeClassifierCV` per penalty, which is what one trial after another takes for a fit and its exact
leave-one-out score; `ridge path` is one `RidgeClassifierCV` with all penalties, which keeps the best alone; `ridge
fits` are `RidgeClassifier`s without any leave-one-out. The kernel gives the heads and accuracies of all penalties.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV
from threadpoolctl import threadpool_limits
from torch import Tensor

from tlbench.evaluation.multinomial import MultinomialPath, multinomial_path
from tlbench.evaluation.neighbours import leave_one_out
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.spectrum import Spectrum, standardise
from tlbench.evaluation.transferability import h_score, log_evidence

MULTINOMIAL_RANGE, RIDGE_RANGE = (1e-6, 1e1), (1e-4, 1e3)
"""Those over which `basic`'s probes search."""

WEIGHTS, PIXELS, WIDTH = "mobilenetv1_050_160", 160, 0.5
PHOTOS_AT_ONCE = 50
Solution = tuple[np.ndarray, np.ndarray]


def synthetic(samples: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Rectified mixtures of latent values whose variances fall as 1/k, the first 64 of which know the class."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(samples) % classes)
    spread = np.arange(1, width + 1) ** -0.5
    values = draw.standard_normal((samples, width)) * spread
    known = min(64, width)
    values[:, :known] += (draw.standard_normal((classes, known)) * spread[:known])[labels]
    mixed = values @ draw.standard_normal((width, width)) * 3 / np.sqrt(width) + 0.2
    return torch.from_numpy(mixed.clip(min=0).astype(np.float32)), torch.from_numpy(labels)


def photos(root: Path) -> tuple[Tensor, Tensor]:
    """Features of the training photos of `cifar10-small` by a MobileNet of half width."""
    from safetensors.torch import load_file
    from timm.models.efficientnet import _gen_mobilenet_v1

    model = _gen_mobilenet_v1("mobilenetv1_100", WIDTH, pad_type="same", num_classes=1000)
    state = load_file(root / "weights" / f"{WEIGHTS}.safetensors")
    model.load_state_dict({name: each.float() if each.is_floating_point() else each for name, each in state.items()})
    model.eval()
    files = sorted((root / "cifar10-small" / "train").glob("*/*"))
    names = sorted({file.parent.name for file in files})
    parts = []
    with torch.inference_mode():
        for start in range(0, len(files), PHOTOS_AT_ONCE):
            batch = torch.stack([_pixels(file) for file in files[start : start + PHOTOS_AT_ONCE]])
            parts.append(model.forward_head(model.forward_features(batch), pre_logits=True))
    return torch.cat(parts).clone(), torch.tensor([names.index(file.parent.name) for file in files])


def _pixels(file: Path) -> Tensor:
    image = Image.open(file).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def logistic(values: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> list[Solution]:
    """scikit-learn's logistic regressions, each from nothing."""
    solutions = []
    for penalty in penalties:
        model = LogisticRegression(C=1 / (penalty * len(values)), max_iter=10_000).fit(values, labels)
        solutions.append((model.coef_, model.intercept_))
    return solutions


def ridge_loop(values: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> list[float]:
    """scikit-learn's exact leave-one-out, a penalty at a time."""
    return [ridge_path(values, labels, [penalty]) for penalty in penalties]


def ridge_path(values: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> float:
    """scikit-learn's exact leave-one-out of all penalties: the best one's score, a negative mean squared error."""
    alphas = [penalty * len(values) for penalty in penalties]
    return float(RidgeClassifierCV(alphas=alphas).fit(values, labels).best_score_)


def ridge_fits(values: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> None:
    """scikit-learn's fits alone."""
    for penalty in penalties:
        RidgeClassifier(alpha=penalty * len(values)).fit(values, labels)


def ridge_kernel(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Heads and leave-one-out accuracies of all penalties."""
    path = RidgePath.of(Spectrum.of(features), labels)
    return path.solutions(penalties)[0], path.accuracies(penalties)


def multinomial_kernel(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> MultinomialPath:
    """Heads of all penalties."""
    return multinomial_path(Spectrum.of(features), labels, penalties)


def objective(values: np.ndarray, labels: np.ndarray, solution: Solution, penalty: float) -> float:
    """Mean cross-entropy + penalty / 2 * |W|^2."""
    weight, intercept = solution
    scores = log_softmax(values @ weight.T + intercept, axis=1)
    return float(penalty / 2 * (weight**2).sum() - scores[np.arange(len(labels)), labels].mean())


Times = dict[str, list[tuple[float, float]]]
"""By competitor, a pair per round: seconds of the wall clock, and of the CPU."""


def rounds(competitors: dict[str, Callable[[], object]], count: int) -> Times:
    """Times of every competitor in every round, which takes all of them in turn; the first one is warmed up."""
    next(iter(competitors.values()))()
    found: Times = {name: [] for name in competitors}
    for _ in range(count):
        for name, competitor in competitors.items():
            wall, cpu = time.perf_counter(), time.process_time()
            competitor()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return found


def table(title: str, times: Times, kernel: str) -> None:
    """Times and ratios to the kernel's."""
    print(f"\n| {title} | shortest, s | times the kernel's [quartiles] | of the CPU time |\n|---|--:|--:|--:|")
    for name, each in times.items():
        ratios = np.array(each) / np.array(times[kernel])
        (low, middle, high), (cpu_low, cpu, cpu_high) = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0).T
        shortest = min(wall for wall, _ in each)
        print(
            f"| {name} | {shortest:.3f} | {middle:.1f} [{low:.1f}, {high:.1f}] "
            f"| {cpu:.1f} [{cpu_low:.1f}, {cpu_high:.1f}] |",
            flush=True,
        )


def excesses(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> None:
    """How far above the minimum each competitor's objectives lie, for every seventh of the penalties."""
    values = standardise(features)[0].numpy()
    best = multinomial_path(Spectrum.of(features), labels, penalties, tolerance=1e-10, dtype=torch.float64)
    path = multinomial_kernel(features, labels, penalties)
    print("\n| penalty | minimum | kernel's excess | logistic's excess |\n|--:|--:|--:|--:|")
    largest = 0.0
    for index, penalty in enumerate(penalties):
        ours = objective(values, labels.numpy(), (path.weights[index].numpy(), path.intercepts[index].numpy()), penalty)
        minimum = float(best.objectives[index])
        largest = max(largest, ours / minimum - 1)
        if index % 7 == 0:
            (solution,) = logistic(values, labels.numpy(), [penalty])
            theirs = objective(values, labels.numpy(), solution, penalty)
            print(f"| {penalty:.1e} | {minimum:.3e} | {ours / minimum - 1:.1e} | {theirs / minimum - 1:.1e} |")
    average = path.evaluations / len(penalties)
    print(f"\nThe kernel's largest excess is {largest:.1e}; it took {average:.1f} evaluations per penalty.")


def compare(name: str, features: Tensor, labels: Tensor, penalty_count: int, round_count: int) -> None:
    """All tables of one feature view."""
    samples, width = features.shape
    print(f"\n## {name}: {samples:,} x {width}, {int(labels.max()) + 1} classes, {penalty_count} penalties")
    values, numbers = standardise(features)[0].numpy(), labels.numpy()
    single = values.astype(np.float32)
    penalties = np.geomspace(*RIDGE_RANGE, penalty_count).tolist()
    found = rounds(
        {
            "kernel: heads and leave-one-out accuracies": lambda: ridge_kernel(features, labels, penalties),
            "ridge loop": lambda: ridge_loop(values, numbers, penalties),
            "ridge path": lambda: ridge_path(values, numbers, penalties),
            "ridge fits": lambda: ridge_fits(values, numbers, penalties),
        },
        round_count,
    )
    table("ridge", found, next(iter(found)))
    strengths = np.geomspace(*MULTINOMIAL_RANGE, penalty_count).tolist()
    found = rounds(
        {
            "kernel": lambda: multinomial_kernel(features, labels, strengths),
            "logistic": lambda: logistic(values, numbers, strengths),
            "logistic, float32": lambda: logistic(single, numbers, strengths),
        },
        round_count,
    )
    table("multinomial", found, "kernel")
    excesses(features, labels, strengths)
    spectrum, votes = Spectrum.of(features), [(5, 0.07), (20, 0.07), (50, 0.07)]
    found = rounds(
        {
            "eigendecomposition": lambda: Spectrum.of(features),
            "LogME from it": lambda: log_evidence(spectrum, labels),
            "shrunk H-score from it": lambda: h_score(spectrum, labels),
            "ridge, one penalty": lambda: ridge_kernel(features, labels, [1.0]),
            "neighbours left one out: 5, 20, 50": lambda: leave_one_out(features, labels, votes),
        },
        round_count,
    )
    table("besides", found, "eigendecomposition")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--penalties", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with threadpool_limits(given.threads):
        print(f"{given.threads} threads, load {os.getloadavg()[0]:.1f} at the start")
        features, labels = synthetic(given.samples, given.width, given.classes)
        compare("synthetic", features, labels, given.penalties, given.rounds)
        root = os.environ.get("TLBENCH_REAL_DATA")
        if root:
            compare(WEIGHTS, *photos(Path(root)), given.penalties, given.rounds)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
