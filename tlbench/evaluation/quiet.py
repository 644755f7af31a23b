"""Quiet: libraries that talk, kept from the user's terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def silence() -> Iterator[None]:
    """Nothing that is printed, logged or warned of inside is seen, whether Python or a library's own code does it."""
    level = logging.root.manager.disable
    with open(os.devnull, "w") as sink, warnings.catch_warnings():  # noqa: PTH123  # no file of anybody's
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            with redirect_stdout(sink), redirect_stderr(sink), _descriptors(sink.fileno()):
                yield
        finally:
            logging.disable(level)


@contextmanager
def _descriptors(sink: int) -> Iterator[None]:
    """Standard output and error of the process, for what is not written in Python."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(AttributeError, ValueError):  # none, or closed
            stream.flush()  # type: ignore[union-attr]
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in kept:
            os.dup2(sink, number)
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
