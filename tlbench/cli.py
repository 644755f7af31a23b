"""The command line: `tlbench` and its commands, and how what a user can mend is told."""

from __future__ import annotations

import gc
import os
from importlib import import_module
from typing import Any

import click

from tlbench.commands.output import INTERRUPTED, USER_ERROR
from tlbench.errors import TlbenchError

COMMANDS = {
    "quickstart": "running",
    "search": "searching",
    "run": "running",
    "leaderboard": "results",
    "show": "results",
    "measure": "measuring",
    "predict": "predicting",
    "export": "exporting",
    "list": "lists",
    "plugins": "lists",
    "doctor": "doctor",
    "cache": "cache",
}
"""Every command and the module of `tlbench.commands` that has it, in the order of `--help`."""


class _Commands(click.Group):
    """Imports a command when it is typed, and turns what a user can mend into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"tlbench.commands.{COMMANDS[cmd_name]}")
        commands = (value for value in vars(module).values() if isinstance(value, click.Command))
        return next(command for command in commands if command.name == cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except TlbenchError as error:
            click.echo(f"tlbench: error: {_line(error)}", err=True)
            ctx.exit(USER_ERROR)
        except KeyboardInterrupt as interrupt:
            click.echo(f"tlbench: {_line(interrupt) or 'interrupted'}", err=True)
            ctx.exit(INTERRUPTED)


@click.group("tlbench", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tlbench", prog_name="tlbench")
def main() -> None:
    """Find the pretrained backbone, and the way to adapt it, that is best for your data, hardware and budget."""
    _wait_briefly()
    collect_rarely()


def collect_rarely() -> None:
    """Let Python look for garbage after 10,000 new objects, not 700, or 2,000 as newer versions do.

    A search imports a million, none of them garbage: to look through them over and over took a second of 3.9.
    """
    gc.set_threshold(10_000, 10, 10)


def _wait_briefly() -> None:
    """Let the threads of GNU's OpenMP, which torch computes with, sleep soon when they wait for each other.

    By default they spin 30 times as long: beside other work, two threads on two cores then took MobileNetV2 from 170
    images a second to 5 to 16, and with this to 28; on a quiet machine it changes nothing. It is read when torch is
    first imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
