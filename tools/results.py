"""What all benchmarks share: tables on the terminal, and a file in artifacts/results/ that says how they came about."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from qpipe.errors import QpipeError
from qpipe.ir.files.write import atomic_path
from qpipe.runtime.cpu import this_cpu

Row = Mapping[str, str | float | int | None]
ORIGIN = ("cpu", "command", "versions")
PACKAGES = ("numpy", "onnx", "onnxruntime", "torch")
RESULTS = Path("artifacts/results")
PREPROCESS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What CIFAR-10's images go through before the networks of the benchmarks."""
PixelsOption = Annotated[list[str] | None, typer.Option(help="stems of networks that take pixels from 0 to 255")]


@dataclass
class Results:
    """The tables of one benchmark, by title; each a list of rows with the same columns.

    earlier: of a table that an earlier run left, what made it.
    """

    name: str
    tables: dict[str, Sequence[Row]] = field(default_factory=dict)
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, folder: Path = RESULTS) -> "Results":
        """With the tables that earlier runs left in NAME.json; none where there is no such file."""
        path = folder / f"{name}.json"
        if not path.exists():
            return cls(name)
        content = json.loads(path.read_text(encoding="utf-8"))
        last = {key: content[key] for key in ORIGIN}
        return cls(name, content["tables"], dict.fromkeys(content["tables"], last) | content.get("earlier", {}))

    def add(self, title: str, rows: Sequence[Row]) -> None:
        """Keep the table and print it."""
        self.tables[title] = rows
        self.earlier.pop(title, None)
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(rows[0]):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*[_cell(value) for value in row.values()])
        Console(width=140).print(table)

    def save(self, folder: Path = RESULTS, *, tell: bool = True) -> Path:
        """Write NAME.json with the tables, the CPU, the versions and the command; tell: say so on the terminal."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        content = {
            "benchmark": self.name,
            "cpu": this_cpu().describe(),
            "command": shlex.join(["python", *sys.argv]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            **({"earlier": self.earlier} if self.earlier else {}),
            "tables": self.tables,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if tell:
            Console().print(f"{this_cpu().describe()}; written to {path}")
        return path


def run_tool(main: Callable[..., None]) -> None:
    """Run a command; what is wrong with its input is one line."""
    try:
        typer.run(main)
    except QpipeError as error:
        raise SystemExit(str(error)) from error


def preprocess_of(model: Path, pixels: Sequence[str] | None) -> dict[str, Any]:
    """What CIFAR-10's images go through before this network. pixels: what `PixelsOption` was given."""
    return {"pixel_max": 255.0} if model.stem in (pixels or ()) else PREPROCESS


def rounded(value: float, digits: int = 3) -> float:
    """The value with that many significant digits: more would be noise."""
    return float(f"{value:.{digits}g}")


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
