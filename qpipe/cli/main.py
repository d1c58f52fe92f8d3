"""The entry point: the table of commands, and what an error looks like.

A QpipeError, a wrong option, a full disk or memory, a signal: one line on stderr and an exit status, never a traceback.
Any other exception is a defect of qpipe, and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from qpipe.cli.adopt import adopt
from qpipe.cli.bench import bench
from qpipe.cli.calibrate import calibrate
from qpipe.cli.demo import demo
from qpipe.cli.energy import energy
from qpipe.cli.export import export
from qpipe.cli.finetune import finetune
from qpipe.cli.inspect import inspect
from qpipe.cli.report import report
from qpipe.cli.run import run
from qpipe.cli.signals import Ending, ending
from qpipe.cli.streams import drop_stdout, steady_streams
from qpipe.cli.validate import validate
from qpipe.errors import QpipeError, one_line, printable

COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    inspect,
    calibrate,
    adopt,
    finetune,
    export,
    validate,
    bench,
    energy,
    report,
    run,
    demo,
)
BAD_INPUT: Final = QpipeError.exit_status
INTERRUPTED: Final = 130
UNREAD: Final = 1
"""Whoever read stdout has gone."""

app = typer.Typer(
    name="qpipe",
    add_completion=False,
    pretty_exceptions_enable=False,
    # rich's panels cut long option names at 80 columns, and double the time that `--help` takes.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command(command.__name__)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        import qpipe

        print(f"qpipe {qpipe.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _qpipe(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A trained network as ONNX becomes a proven integer-only int8 or int4 ONNX network.

    \b
    Example:
      qpipe calibrate net.onnx --data cifar10.npz -o net.qdq.onnx
      qpipe finetune net.qdq.onnx --data cifar10.npz -o net.ft.qdq.onnx
      qpipe export net.ft.qdq.onnx --format qoperator -o net.int8.onnx
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (by default that of `sys.argv`) and return its exit status."""
    with steady_streams(), ending() as end:
        status = _run(arguments, end)
        try:
            sys.stdout.flush()
        except OSError as error:
            drop_stdout()
            if not status:
                unread = isinstance(error, BrokenPipeError)
                status = UNREAD if unread else _fail(f"stdout: {one_line(error)}", BAD_INPUT)
        return status


def _run(arguments: Sequence[str] | None, end: Ending) -> int:
    try:
        _refuse_nul(sys.argv[1:] if arguments is None else arguments)
        status = app(arguments, prog_name="qpipe", standalone_mode=False)
    except QpipeError as error:
        # One that a signal led to, such as that of a worker which got it as well, is not the news.
        return _ended(end) if end.number else _fail(str(error), error.exit_status)
    except typer.TyperException as error:
        # What a value of a choice is refused by begins so, in the words of the library that typer checks it with.
        problem = error.format_message().replace("Value error, ", "")
        return _fail(f"{problem} (see {_help_of(error)})", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        drop_stdout()
        return UNREAD
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        return _fail(f"out of memory{detail}; a smaller --batch-size needs less", BAD_INPUT)
    except OSError as error:
        where = f"{os.fspath(error.filename)}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", BAD_INPUT)
    # typer makes this status of a KeyboardInterrupt, and says nothing.
    if status == INTERRUPTED:
        return _ended(end)
    return status if isinstance(status, int) else 0


def _refuse_nul(words: Sequence[str]) -> None:
    """No system passes it; who calls `main` may."""
    for word in words:
        if "\0" in word:
            raise QpipeError(f"{word}: has a NUL, which no option can hold")


def _ended(end: Ending) -> int:
    return _fail(end.word, end.status)


def _fail(message: str, status: int) -> int:
    """One line on stderr, whatever lines the message has."""
    print(f"qpipe: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return status


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'qpipe'} --help"
