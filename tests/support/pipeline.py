"""A pipeline in small: verbs that only write a file, and a recipe on a model and data that are plain text."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.pipeline import PipelineReport
from qpipe.recipe import Recipe

ALL = ["calibrate", "finetune", "export-qoperator", "export-integer", "validate"]


class Verbs:
    """Stand-ins for the verbs: each notes its call, and writes a file that depends on its input and arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fail_at: str | None = None
        self.integers_equal = True
        self.before_failing: Callable[[dict[str, Any]], None] = lambda _: None

    @classmethod
    def in_place(cls, monkeypatch: pytest.MonkeyPatch) -> "Verbs":
        """Of the real ones, while the test runs."""
        verbs = cls()
        for name in ("calibrate", "finetune", "export", "validate"):
            monkeypatch.setitem(vars(qpipe), name, getattr(verbs, name))
        return verbs

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def call(self, name: str, keywords: dict[str, Any]) -> None:
        self.calls.append((name, keywords))
        if self.fail_at == name:
            self.before_failing(keywords)
            raise ModelError(f"{name}: stopped")

    def calibrate(self, model: str, data: str, output: Path, **keywords: Any) -> None:
        self.call("calibrate", keywords)
        output.write_text(f"q({Path(model).read_text()}, {keywords['weight_bits']})")

    def finetune(self, model: Path, data: str, output: Path, **keywords: Any) -> None:
        self.call("finetune", keywords)
        output.write_text(f"f({model.read_text()}, {keywords['epochs']})")

    def export(self, model: Path, output: Path, **keywords: Any) -> None:
        self.call(f"export-{keywords['format']}", keywords)
        output.write_text(f"{keywords['format']}({model.read_text()})")

    def validate(self, models: list[str], data: str, **keywords: Any) -> SimpleNamespace:
        self.call("validate", keywords)
        rows = [{"name": Path(model).name, "content": Path(model).read_text()} for model in models]
        return SimpleNamespace(rows=rows, ok=self.integers_equal, task={"metric": "top-1"})


def recipe_in(folder: Path, **changes: Any) -> Recipe:
    """A recipe on a model and data that are plain text files in `folder`."""
    for name in ("net.onnx", "data.npz"):
        if not (folder / name).exists():
            (folder / name).write_text(name)
    values = {
        "output": str(folder / "out"),
        "model": {"path": str(folder / "net.onnx")},
        "data": {"path": str(folder / "data.npz")},
        "finetune": {"epochs": 2},
        "export": {"formats": ["qoperator", "integer"]},
    }
    return Recipe.model_validate(values | changes)


def kept(report: PipelineReport) -> list[str]:
    return [stage.name for stage in report.stages if stage.kept]
