"""What a command prints: one JSON object, or tables for people; progress goes to stderr."""

import contextlib
import json as json_module
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from qpipe.errors import printable
from qpipe.json_values import to_plain
from qpipe.processes import is_main_process
from qpipe.progress import Fact, reporting

_TALKATIVE = ("onnx_ir", "onnxscript")
_COLUMN, _FRAME = 8, 3
"""Characters that a column of a table has at least, where it has so many, and those that stand around them."""


@contextlib.contextmanager
def working() -> Iterator[list[Fact]]:
    """Run a verb: its progress and its warnings are shown on stderr, and whatever a library prints goes there too.

    Gives what the verb tells, such as which data it found. Of several processes the main one alone shows them. What
    onnx_ir logs of a damaged model comes as an error of ours, or doesn't matter.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    nothing: list[Fact] = []
    shown: contextlib.AbstractContextManager[list[Fact]]
    shown = reporting() if is_main_process() else contextlib.nullcontext(nothing)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), shown as told:
        warnings.showwarning = _show_warning
        yield told


def emit(json: bool, payload: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print `payload` as one JSON object, or have `show` print it for people; the main process alone does."""
    if not is_main_process():
        return
    if json:
        print(json_module.dumps(to_plain(payload), allow_nan=False))
    else:
        show()


def say(line: str) -> None:
    """Print one line for people, whatever the names in it hold."""
    print(printable(line))


def print_table(title: str, rows: Sequence[Mapping[str, JsonValue]]) -> None:
    """Print rows as a table whose columns are the keys of all rows; nothing where there are no rows.

    The column `size` counts bytes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[printable(_in_column(column, row.get(column))) for column in columns] for row in rows]
    # A certificate has more columns than a terminal: what does not fit folds, and a pipe gets whole lines.
    console = Console(width=None if sys.stdout.isatty() else 200)
    # Of a terminal that has no room for that either the lines break: nothing is left out.
    least = [min(max(map(len, texts)), _COLUMN) + _FRAME for texts in zip(*shown, strict=True)]
    console.width = max(console.width, sum(least) + 1)
    table = Table(title=Text(printable(title), "bold"), title_justify="left")
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for texts in shown:
        # As Text: of a plain one rich would take [..] for markup.
        table.add_row(*map(Text, texts))
    if rows:
        console.print(table)


def cell(value: JsonValue) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    return value


def metadata(model: Any) -> dict[str, JsonValue]:
    """What an `onnx_ir.Model` carries under `qpipe.`, without the prefix; JSON values are parsed."""
    prefix = "qpipe."
    return {
        key.removeprefix(prefix): _parsed(text) for key, text in model.metadata_props.items() if key.startswith(prefix)
    }


def _in_column(column: str, value: JsonValue) -> str:
    from rich.filesize import decimal

    return decimal(value) if column == "size" and isinstance(value, int) else cell(value)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without the place in the source that Python adds."""
    if is_main_process():
        print(f"qpipe: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _parsed(text: str) -> JsonValue:
    try:
        value: JsonValue = json_module.loads(text)
    except (ValueError, RecursionError):
        return text
    return value
