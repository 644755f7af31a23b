"""Lockstep: many minimisations of one kind at once, by limited-memory BFGS.

All take their steps together, so that an evaluation of all can be a few matrix products; who is done leaves. The method
is that of Nocedal and Wright, Numerical Optimization, section 7.2, its initial Hessian a diagonal that the problem
knows better than the steps do.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, final

import torch
from torch import Tensor

MOST_STEPS = 500
"""Steps of one minimisation; of logistic regressions on real features the one with the weakest penalty took 130."""

MEMORY = 10
"""Steps that are remembered."""

SHORTEST = 1e-6
"""Share of a step below which a shorter one is not tried: what is left is rounding."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Minimisations at one point each: all tensors begin with the axis of minimisations."""

    penalties: Tensor
    """[m]."""

    weights: Tensor
    """What is varied [m, rows, columns]."""

    values: Tensor
    """Objectives, in float64 [m]."""

    gradients: Tensor
    """As `weights`."""

    spreads: Tensor
    """What the problem needs to know the curvatures [m, rows]."""

    def of(self, which: Tensor) -> State:
        """Those that an index or a mask selects."""
        return State(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def put(self, which: Tensor, other: State) -> None:
        """Overwrite those that an index or a mask selects."""
        for field in fields(self):
            getattr(self, field.name)[which] = getattr(other, field.name)


class Problem(Protocol):
    """What is minimised."""

    def at(self, weights: Tensor, penalties: Tensor) -> State:
        """Objectives and gradients at weights [m, rows, columns]."""

    def curvatures(self, state: State) -> Tensor:
        """About the Hessians' diagonals, positive, as the weights."""


def minimise(problem: Problem, start: State, *, ceiling: float, tolerance: float) -> tuple[State, Tensor]:
    """The minima, and how far above them the objectives are estimated to be [m].

    Done is where that is at most `tolerance` of the objective and of its fall below `ceiling`.
    """
    found = start.of(torch.arange(len(start.values), device=start.values.device))
    descent = _Descent(problem=problem, ceiling=ceiling, tolerance=tolerance, state=start, steps=[])
    return found, descent.run(found)


@dataclass(kw_only=True, eq=False)
class _Descent:
    """Those that are not done yet."""

    problem: Problem
    ceiling: float
    tolerance: float
    state: State
    steps: list[tuple[Tensor, Tensor, Tensor]]
    """The latest: differences of weights, of gradients, and the inverse of their product, 0 where it is of no use."""

    def run(self, found: State) -> Tensor:
        """Put the solutions into `found`; how far above the minimum they are estimated to be."""
        indices = torch.arange(len(self.state.values), device=self.state.values.device)
        rests = torch.zeros_like(self.state.values)
        for step in range(MOST_STEPS + 1):
            inverse = 1 / self.problem.curvatures(self.state)
            rest = _product(self.state.gradients, inverse * self.state.gradients).double() / 2
            done = self._done(rest) | (step == MOST_STEPS)
            if done.any():
                found.put(indices[done], self.state.of(done))
                rests[indices[done]] = rest[done]
                indices, inverse = indices[~done], inverse[~done]
                self._keep(~done)
            if not len(indices):
                break
            self._step(self._direction(inverse))
        return rests

    def _done(self, rest: Tensor) -> Tensor:
        values = self.state.values
        precision = torch.finfo(self.state.weights.dtype).eps
        fall = (self.ceiling - values).clamp(min=precision * self.ceiling)
        return rest <= self.tolerance * torch.minimum(values, fall)

    def _keep(self, which: Tensor) -> None:
        self.state = self.state.of(which)
        self.steps = [(moved[which], turned[which], inverse[which]) for moved, turned, inverse in self.steps]

    def _direction(self, inverse: Tensor) -> Tensor:
        """The two-loop recursion, its initial matrix `inverse` times the latest step's curvature."""
        direction, shares = -self.state.gradients, []
        for moved, turned, factor in reversed(self.steps):
            share = factor * _product(moved, direction)
            direction = direction.sub_(share[:, None, None] * turned)
            shares.append(share)
        if self.steps:
            _, turned, factor = self.steps[-1]
            curvature = 1 / (factor * _product(turned, inverse * turned))
            inverse = inverse * curvature.where(factor > 0, 1.0)[:, None, None]
        direction = inverse * direction
        for (moved, turned, factor), share in zip(self.steps, reversed(shares), strict=True):
            direction.add_((share - factor * _product(turned, direction))[:, None, None] * moved)
        return direction

    def _step(self, direction: Tensor) -> None:
        """Go as far as the objectives fall enough (Armijo), at first the whole way."""
        old = self.state
        slopes = _product(old.gradients, direction).double()
        lengths = torch.ones_like(slopes)
        new = self.problem.at(old.weights + direction, old.penalties)
        noise = 10 * torch.finfo(direction.dtype).eps * old.values
        while (far := ~(new.values <= old.values + 1e-4 * lengths * slopes + noise) & (lengths > SHORTEST)).any():
            bend = new.values - old.values - slopes * lengths
            best = (-slopes * lengths / (2 * bend)).nan_to_num(0.1).clamp(0.1, 0.5)  # the parabola's lowest point
            lengths = lengths.where(~far, lengths * best)
            which = far.nonzero()[:, 0]
            shorter = lengths[which, None, None].to(direction.dtype) * direction[which]
            new.put(which, self.problem.at(old.weights[which] + shorter, old.penalties[which]))
        moved, turned = new.weights - old.weights, new.gradients - old.gradients
        product = _product(moved, turned)
        useful = product > torch.finfo(product.dtype).eps * moved.norm(dim=(1, 2)) * turned.norm(dim=(1, 2))
        self.steps = [*self.steps[-MEMORY + 1 :], (moved, turned, (1 / product).where(useful, 0.0))]
        self.state = new


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Inner products [m]."""
    products: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
    return products
