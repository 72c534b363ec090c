"""Commands that say what there is: names, their pages, and the schema of specifications."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from sidedoor import registry
from sidedoor.cli._options import AsJson, emit


def _kinds(incomplete: str) -> Iterable[str]:
    return [kind.name for kind in registry.KINDS if kind.name.startswith(incomplete)]


def _tags(incomplete: str) -> Iterable[str]:
    return [tag for tags in registry.FACETS.values() for tag in tags if tag.startswith(incomplete)]


def _names(incomplete: str) -> Iterable[tuple[str, str]]:
    from sidedoor.cli.specification import PAGES

    names = [(entry.name, entry.summary) for entry in registry.entries()]
    return [(name, text) for name, text in [*names, *PAGES.items()] if name.startswith(incomplete)]


def list_(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(kind.name for kind in registry.KINDS)}.",
                                               autocompletion=_kinds)] = None,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a table of all names with their papers.")]
    = False,
    tags: Annotated[list[str], typer.Option("--tag", autocompletion=_tags, help="Only attacks with this tag, e.g. "
                                            "clean_label; of several, with all.")] = [],  # noqa: B006
) -> None:
    """List what is registered: attacks, defences, goals, tasks, models, data sets, triggers, plug-ins."""
    from sidedoor.cli.catalogue import lines, markdown

    wanted = registry.kind_of(kind).name if kind is not None else None
    entries = [e for e in registry.entries() if wanted in (None, e.kind) and e.tagged(tags)]
    if as_json:
        emit([vars(e) for e in entries])
    else:
        typer.echo(markdown(entries) if as_markdown else "\n".join(lines(entries)))


def show(name: Annotated[str, typer.Argument(help="A registered name, spec, recipe or weights.",
                                             autocompletion=_names)],
         as_json: AsJson = False) -> None:
    """Describe one name: what it is, its parameters with defaults, its paper, its threat model."""
    from sidedoor.cli import describe, specification

    page = specification.describe(name) if name in specification.PAGES else describe.describe(name)
    if as_json:
        emit(vars(page))
    else:
        typer.echo(page.text())


def schema() -> None:
    """Print the JSON Schema of specifications and sweep files, for editors."""
    from sidedoor.cli.schema import schema as made

    emit(made())
