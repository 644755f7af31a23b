"""The command line: `tlbench` and its commands, and how what a user can mend is told."""

from __future__ import annotations

from typing import Any

import click

from tlbench.commands import cache, doctor, exporting, lists, predicting, results, running, searching
from tlbench.commands.output import INTERRUPTED, USER_ERROR
from tlbench.errors import TlbenchError


class _Commands(click.Group):
    """Turns what a user can mend into one line and an exit status."""

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


for _command in (
    running.run,
    running.quickstart,
    searching.search,
    results.leaderboard,
    results.show,
    predicting.predict,
    exporting.export,
    lists.list_,
    lists.plugins,
    doctor.doctor,
    cache.cache,
):
    main.add_command(_command)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
