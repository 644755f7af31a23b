"""The cut: where in a model its trained part begins, and the model run from there on alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn

from tlbench.evaluation.calls import Blank, Call, Shape, blank, calls, extent, shape, shortened
from tlbench.evaluation.model import rows
from tlbench.evaluation.pool import Pool

_NOTHING = float("nan")
"""What skipped modules return: where it reaches the logits, however small the factor, they show it."""


class _Reached(BaseException):
    """Ends a forward pass at the cut; no `Exception`, which a model might handle."""

    def __init__(self, activation: Tensor) -> None:
        self.activation = activation


@final
class Cut:
    """A cut at the input of a module: what is called before is frozen, and everything after it needs that input alone.

    That input is the first tensor among its arguments when it is first called. Models are Python code: what else flows
    past the cut (a shortcut around it, a mask made of hidden states) cannot be read from them. So a cut is proposed by
    `cuts`, and used once `tlbench.evaluation.proof.find_cut` has compared logits and gradients.
    """

    def __init__(
        self, model: nn.Module, call: Call, at: Shape, over: Sequence[Call], skipped: Sequence[tuple[Call, Blank]]
    ) -> None:
        """`over`: the calls that are over when that of the cut begins; some of the outermost are skipped."""
        assert call.place is not None
        self.model, self.name, self.activation, self.skipped = model, call.name, at, skipped
        self._call, self._place, self._over = call, call.place, over

    @property
    def saves(self) -> bool:
        """Whether most of what lies before the cut is skipped, counted in parameters."""
        skipped = _parameters(call for call, _ in self.skipped)
        return 2 * skipped > _parameters(_outermost(self._over, self._call))

    @property
    def pool(self) -> str | None:
        """The pool that what flows into the cut went through, at least in part; None where the cut is before it."""
        modules = [call.module for call in (*self._over, *self._call.around)]
        return next((module.name for module in modules if isinstance(module, Pool)), None)

    @property
    def frozen_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers that decide what flows into the cut, by their names in the model.

        Those of modules that are called before, and what modules around these have themselves, such as a class token.
        """
        before = {module for call in self._over for module in call.module.modules()}
        inside = [f".{name}" for name in (self.name, *(call.name for call in self._over))]
        for prefix, module in self.model.named_modules():
            start = f".{prefix}." if prefix else "."
            if module in before or any(name.startswith(start) for name in inside):
                own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                yield from ((f"{prefix}.{name}", tensor) for name, tensor in own if not tensor.requires_grad)

    def without(self, modules: set[nn.Module]) -> Cut:
        """The same cut, but these modules are not skipped."""
        skipped = [(call, of) for call, of in self.skipped if call.module not in modules]
        return Cut(self.model, self._call, self.activation, self._over, skipped)

    def reach(self, inputs: Any, run: Callable[[Any], Any] | None = None) -> Tensor:
        """What flows into the cut when the model, or what stands for it in `run`, is given `inputs`.

        Nothing behind the cut is computed.
        """

        def stop(_: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
            raise _Reached(self._place.tensor(args, kwargs))

        hook = self._call.module.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            (run or self.model)(inputs)
        except _Reached as reached:
            return reached.activation
        finally:
            hook.remove()
        raise RuntimeError(f"the forward pass did not call '{self.name}'")

    def logits(self, inputs: Any, activation: Tensor, number: Callable[[Call], float] = lambda _: _NOTHING) -> Tensor:
        """Logits of a batch whose `activation` flows into the cut; of `inputs` little more than the shape is needed.

        `number`: what a skipped call returns is filled with it.
        """
        module, original, entered = self._call.module, self._call.module.forward, False
        size, device = extent(inputs), activation.device

        def enter(*args: Any, **kwargs: Any) -> Any:
            nonlocal entered
            if not entered:  # a module that is called again computes with what it is given
                entered = True
                args, kwargs = self._place.put(activation, args, kwargs)  # type: ignore[assignment]
            return original(*args, **kwargs)

        def skip(whole: Callable[..., Any], returned: Iterator[tuple[Call, Blank]]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if entered:
                    return whole(*args, **kwargs)
                call, of = next(returned)
                return of.filled(number(call), size, device)

            return forward

        by_module: dict[nn.Module, list[tuple[Call, Blank]]] = defaultdict(list)
        for call, of in self.skipped:
            by_module[call.module].append((call, of))
        replaced = {each: skip(each.forward, iter(returned)) for each, returned in by_module.items()}
        with _forwards({**replaced, module: enter}):
            logits: Tensor = self.model(inputs)
        if not entered:
            raise RuntimeError(f"the forward pass did not call '{self.name}'")
        return logits


@contextmanager
def _forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else inside."""
    own = {module: vars(module).get("forward") for module in replaced}
    try:
        for module, forward in replaced.items():
            module.forward = forward
        yield
    finally:
        for module, before in own.items():
            del module.forward
            if before is not None:
                module.forward = before


def cuts(model: nn.Module, inputs: Any) -> Iterator[Cut]:
    """Where a model may be cut, the one with least behind it first; `inputs`: of two samples or more.

    The first call that trains something, then the first that does inside of it, and so on: each may be a cut. In the
    mode that the model is in, with gradients.
    """
    trace = _Trace(model, inputs)
    for call in reversed(list(_chain(trace.calls))):
        cut = _cut(model, call, trace)
        if cut is not None:
            yield cut


def earlier_cuts(cut: Cut, inputs: Any, names: Container[str]) -> Iterator[Cut]:
    """Cuts of the same model at modules of these names that are called before, the last one first."""
    trace = _Trace(cut.model, inputs)
    before = list(itertools.takewhile(lambda call: call.name != cut.name, trace.calls))
    for call in reversed(before):
        found = _cut(cut.model, call, trace) if call.name in names else None
        if found is not None:
            yield found


@final
class _Trace:
    """The calls of a forward pass; each stands for those of smaller batches, too."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.size = extent(inputs)
        self.calls: Sequence[Call] = []
        self._alike: dict[int, Sequence[Call]] = {}
        if self.size[0] < 2 or self.size[1] == 1:
            return
        variants = [inputs, rows(inputs, 0, self.size[0] - 1), shortened(inputs) if self.size[1] else inputs]
        seen = [calls(model, variant) for variant in variants]
        if len({tuple(call.name for call in each) for each in seen}) == 1:
            self.calls = seen[0]
            self._alike = {id(call): [call, *others] for call, *others in zip(*seen, strict=True)}

    def variants(self, call: Call) -> Sequence[Call]:
        """The call, the same with a sample less, and with a position less."""
        return self._alike[id(call)]


def _chain(trace: Sequence[Call]) -> Iterator[Call]:
    within: Call | None = None
    while found := next((call for call in trace if call.within is within and call.trains), None):
        yield found
        within = found


def _cut(model: nn.Module, call: Call, trace: _Trace) -> Cut | None:
    """The cut at a call's input; None where that cannot be kept sample by sample, or nothing frozen is before it."""
    places = [each.place for each in trace.variants(call)]
    place = places[0]
    if place is None or not place.floating or place.trained:
        return None
    try:
        at = shape([each.shape for each in places if each is not None], trace.size)
        over = _over(call, trace.calls)
        blanks = [(each, blank(trace.variants(each), trace.size)) for each in _outermost(over, call)]
    except ValueError:  # the number of axes depends on the batch
        return None
    cut = Cut(model, call, at, over, [(each, of) for each, of in blanks if of is not None])
    fits = at.per_sample and (at.even or at.per_position)
    return cut if fits and cut.saves else None


def _over(call: Call, trace: Sequence[Call]) -> list[Call]:
    """The calls that are over when a call begins."""
    around = {id(each) for each in call.around}
    return [each for each in trace[: trace.index(call)] if id(each) not in around]


def _outermost(over: Iterable[Call], call: Call) -> list[Call]:
    """Those that are part of no other but of what is around a call."""
    around = {id(each) for each in call.around}
    return [each for each in over if each.within is None or id(each.within) in around]


def _parameters(of: Iterable[Call]) -> int:
    modules = {call.module for call in of}
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
