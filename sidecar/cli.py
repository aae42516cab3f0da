"""The `sidecar` command: everything that is done with a configuration or with certificates without starting a sidecar.

Exit status: 0 when all is well, 1 when something is wrong with what was looked at, 2 when the command itself was not understood.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence

import click

from sidecar import __version__
from sidecar.config.doubts import doubts
from sidecar.config.load import expand, json_schema, load
from sidecar.errors import ConfigError
from sidecar.plugins import Finder

# Subcommands that live with what they are about: name -> (module, click command, help). Imported when they are used.
LAZY_COMMANDS = {
    "ca": ("sidecar.identity.ca_cli", "ca", "A small certificate authority for laptops and tests."),
}


class _Commands(click.Group):
    """Commands of this file, and those that are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *LAZY_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in LAZY_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = LAZY_COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            lazy = LAZY_COMMANDS.get(name)
            command = None if lazy else self.get_command(ctx, name)
            rows.append((name, lazy[2] if lazy else command.get_short_help_str(80) if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


plugin_dirs = click.option(
    "--plugin-dir",
    "plugin_directories",
    multiple=True,
    metavar="DIR",
    help="A directory with plugins of your own (repeatable).",
)


def _finder(directories: Sequence[str]) -> Finder:
    """The finder for a command; what is wrong with plugin files is said on standard error, loudly and once."""
    finder = Finder(directories)
    for problem in finder.problems():
        click.echo(f"warning: {problem}", err=True)
    return finder


def _refuse(error: ConfigError) -> None:
    for problem in error.problems:
        click.echo(str(problem), err=True)
    count = len(error.problems)
    click.echo(f"{count} problem{'s' if count != 1 else ''}", err=True)
    sys.exit(1)


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="sidecar")
def main() -> None:
    """Look at a sidecar's configuration, plugins and certificates. The sidecar itself is started with `twistd sidecar`."""


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@plugin_dirs
def check(files: tuple[str, ...], plugin_directories: tuple[str, ...]) -> None:
    """Say everything that is wrong with configuration files.

    One problem a line, FILE:LINE:COLUMN: PATH: what is wrong, on standard error. Nothing is opened but the files and the secrets they name.
    """
    finder = _finder(plugin_directories)
    wrong = 0
    for file in files:
        try:
            found = load(file, finder)
        except ConfigError as error:
            wrong += len(error.problems)
            for problem in error.problems:
                click.echo(str(problem), err=True)
        else:
            for doubt in doubts(found):
                click.echo(f"warning: {doubt}", err=True)
            click.echo(f"{file}: ok")
    if wrong:
        click.echo(f"{wrong} problem{'s' if wrong != 1 else ''}", err=True)
        sys.exit(1)


@main.command()
@plugin_dirs
def schema(plugin_directories: tuple[str, ...]) -> None:
    """Print the JSON Schema of configuration files, for editors.

    It covers both forms and the configuration of every plugin that is found.
    """
    click.echo(json.dumps(json_schema(_finder(plugin_directories)), indent=2))


@main.group()
def config() -> None:
    """Show what a configuration file means."""


@config.command("expand")
@click.argument("file", metavar="FILE")
@click.option("--defaults", is_flag=True, help="Also write what the file leaves at its default.")
@plugin_dirs
def config_expand(file: str, defaults: bool, plugin_directories: tuple[str, ...]) -> None:
    """Print a file in the full form.

    Comments tell which line each object came from. Secrets are not shown.
    """
    try:
        click.echo(expand(file, _finder(plugin_directories), defaults=defaults), nl=False)
    except ConfigError as error:
        _refuse(error)


@main.command()
@plugin_dirs
def plugins(plugin_directories: tuple[str, ...]) -> None:
    """List the plugins there are: kind, name, origin, one line each.

    Files that cannot be run and names that are taken twice are told on standard error, with exit status 1.
    """
    finder = Finder(plugin_directories)
    rows = [(each.kind, each.name, each.origin, each.summary) for each in finder.found()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for kind, name, origin, summary in rows:
        click.echo(f"{kind:{widths[0]}}  {name:{widths[1]}}  {origin:{widths[2]}}  {summary}".rstrip())
    problems = finder.problems()
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
