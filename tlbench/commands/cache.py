"""The cache: the command that shows and clears what can be computed or fetched again."""

from __future__ import annotations

import click

from tlbench.errors import CacheError


@click.group()
def cache() -> None:
    """Show and clear what can be computed or fetched again.

    The cache's folder is TLBENCH_CACHE, or 'tlbench' in the user's cache folder. What the Hugging Face hub's client
    keeps is shown, too, and never cleared: 'hf cache rm' and 'hf cache prune' do that.
    """


@cache.command(name="list")
def list_() -> None:
    """List the sections of the cache and the repositories in the hub's."""
    from tlbench import caches, listing
    from tlbench.evaluation import hub

    click.echo(f"{caches.root()}:")
    own = [
        {"section": found.name, "files": found.files, "size": caches.text(found.size_bytes), "holds": found.summary}
        for found in caches.sections()
    ]
    click.echo(listing.columns(own) or "nothing")
    click.echo(f"\n{hub.cache_folder()}:")
    repositories = [{"repository": name, "size": caches.text(size)} for name, size in _repositories()]
    click.echo(listing.columns(repositories) or "nothing")


@cache.command()
def size() -> None:
    """Print how much disk the cache takes, and the hub's."""
    from tlbench import caches
    from tlbench.evaluation import hub

    click.echo(f"{caches.text(sum(found.size_bytes for found in caches.sections()))}  {caches.root()}")
    click.echo(f"{caches.text(sum(size for _, size in _repositories()))}  {hub.cache_folder()}")


@cache.command()
@click.argument("section", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(section: str | None, yes: bool) -> None:
    """Remove SECTION, or every section.

    What the Hugging Face hub's client keeps stays: 'hf cache rm' and 'hf cache prune' remove that.
    """
    from tlbench import caches

    found = [one for one in caches.sections() if section in (None, one.name)]
    if not found:
        caches.check(section)
        click.echo(f"nothing to clear in {caches.root()}")
        return
    taken = caches.text(sum(one.size_bytes for one in found))
    if not yes:
        _confirm(f"remove {', '.join(str(one.path) for one in found)} ({taken})?")
    for one in found:
        caches.clear(one.name)
    click.echo(f"cleared {taken}")


def _confirm(question: str) -> None:
    """Go on if the user says so."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        raise CacheError("nothing was cleared; --yes clears without asking") from None


def _repositories() -> list[tuple[str, int]]:
    from tlbench.evaluation import hub

    try:
        return hub.cached_repositories()
    except Exception as error:  # of the hub's client, about a folder that is not tlbench's
        raise CacheError(f"cannot read the hub's cache '{hub.cache_folder()}': {hub.one_line(error)}") from error
