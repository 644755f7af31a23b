"""A time limit on code that is not ours: named when it is slow, ended when it is too slow."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SLOW_S = 5.0
"""What takes this long is named on a line of stderr."""

AGAIN_S = 0.1
"""How soon the timer rings again for code that caught the exception. It bounds how long our own clean-up may take."""


class Overdue(BaseException):
    """Raised by the timer inside the code; no `except Exception` there stops it."""


def limited(call: Callable[[], T], seconds: float, name: str) -> T:
    """Return what `call` returns; raise `Overdue` in it after `seconds`.

    Code that blocks inside C, or that catches everything for ever at two levels, is not ended. There is no limit
    outside the main thread, which alone gets signals, and where the system has no SIGALRM.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return call()
    start, tracer = time.monotonic(), sys.gettrace()
    previous = signal.signal(signal.SIGALRM, _bell(start, seconds, name))
    outer_s, interval_s = signal.setitimer(signal.ITIMER_REAL, min(SLOW_S, seconds))
    try:
        try:
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # a second time, because the timer may have rung inside the first `finally`
        signal.setitimer(signal.ITIMER_REAL, 0)
        if sys.gettrace() is not tracer:
            sys.settrace(tracer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
        if outer_s:
            signal.setitimer(signal.ITIMER_REAL, max(outer_s - (time.monotonic() - start), 1e-3), interval_s)


def _bell(start: float, seconds: float, name: str) -> Callable[[int, FrameType | None], None]:
    def ring(_number: int, frame: FrameType | None) -> None:
        elapsed = time.monotonic() - start
        if elapsed < seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds - elapsed)
            _say(f"{name} is still loading after {elapsed:.0f} s; it is ended after {seconds:g} s")
            return
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        error = Overdue(f"it took more than {seconds:g} s to load")
        _raise_on_next_line(frame, error)
        raise error

    return ring


def _raise_on_next_line(frame: FrameType | None, error: BaseException) -> None:
    """Raise `error` a second time in code that catches everything.

    In `while True: try: sleep(1) except BaseException: pass` the timer always rings inside the `try`. The next line is
    in the `except`, and an exception there leaves the loop.
    """

    def refuse(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            raise error
        return refuse

    while frame is not None and frame.f_code.co_filename != __file__:
        frame.f_trace = refuse
        frame = frame.f_back
    sys.settrace(lambda _frame, _event, _argument: None)  # frames entered from now on are left alone


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"tlbench: {text}\n".encode())  # sys.stderr is not re-entrant, and a signal comes at any time
