"""The root command: groups, version, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from smalti import __version__
from smalti.cli import data, look, make, measure, models, runs, train
from smalti.cli.doctor import doctor
from smalti.errors import SmaltiError

MAKE, LOOK, TRAIN = "Make", "Look", "Train & models"
INTERRUPTED = 130

app = typer.Typer(
    name="smalti",
    help="Generate and edit images as mosaics of discrete codes.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in make.COMMANDS:
    app.command(rich_help_panel=MAKE)(verb)
for command in look.COMMANDS:
    app.command(rich_help_panel=LOOK)(command)
app.command(rich_help_panel=TRAIN)(train.train)
app.command(rich_help_panel=TRAIN)(measure.evaluate)
app.add_typer(runs.app, name="runs", rich_help_panel=TRAIN)
app.add_typer(data.app, name="data", rich_help_panel=TRAIN)
app.command("import", rich_help_panel=TRAIN)(models.import_)
app.command("export", rich_help_panel=TRAIN)(models.export)
app.add_typer(models.app, name="models", rich_help_panel=TRAIN)
app.command(rich_help_panel=TRAIN)(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"smalti {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Generate and edit images as mosaics of discrete codes."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, prog_name="smalti", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt  # Typer turns it into an exit code; we want the sentence below as well
        return code if isinstance(code, int) else 0
    except SmaltiError as error:
        _say(f"error: {error}")
        return error.exit_code
    except typer.TyperException as error:
        # one line instead of a usage box; without a command the help was printed and there is nothing to add
        if message := error.format_message():
            _say(f"error: {message.rstrip('.')}; see --help")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted: what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our stdout has gone, e.g. `| head`
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
            raise
        _say(f"error: standard output cannot be written: {error.strerror}")
        return 1


def _say(text: str) -> None:
    """A line on stderr, once per machine: a launcher starts many processes, and all meet the same mistake."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)


def main() -> None:
    """Entry point of the `smalti` command."""
    sys.exit(run())
