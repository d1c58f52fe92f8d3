"""What is known of a format stands in its file: nothing else in the house names one, or asks which one it has."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from qpipe.formats import DEFAULT, WeightQuantizer
from qpipe.formats.base import NominalFormat, WeightFormat
from qpipe.formats.table import EDGE_FORMAT, FORMATS, format_of_codes

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    file
    for package in ("qpipe", "passes")
    for file in (ROOT / package).rglob("*.py")
    if (ROOT / "qpipe" / "formats") not in file.parents
)
CLASSES = {
    cls.__name__
    for known in FORMATS.values()
    for cls in known.__mro__
    if issubclass(cls, WeightFormat) and cls not in {WeightFormat, NominalFormat}
} | {"WeightFormat", "NominalFormat"}


def told_apart(source: str) -> Iterator[str]:
    """`line: what` for each name of a format as a constant of its own, and each question for a format's class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in FORMATS:
            yield f"line {node.lineno}: '{node.value}'"
        questions = [node.args[1:]] if isinstance(node, ast.Call) and _is_question(node.func) else []
        questions += [[node.left, *node.comparators]] if isinstance(node, ast.Compare) else []
        questions += [[node.cls]] if isinstance(node, ast.MatchClass) else []
        for found in (name for parts in questions for part in parts for name in ast.walk(part)):
            if (isinstance(found, ast.Name) and found.id in CLASSES) or (
                isinstance(found, ast.Attribute) and found.attr in CLASSES
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def _is_question(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in {"isinstance", "issubclass"}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_other_room_tells_formats_apart(file: Path) -> None:
    assert list(told_apart(file.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "quantizer == 'dorefa'",
        "{'bireal', 'groupnet'}",
        "isinstance(layer.weight.format, FixedPoint)",
        "isinstance(spec, int | lq.LQ)",
        "type(spec) is Binary",
        "match spec:\n    case DoReFa(bits=2):\n        pass",
    ],
)
def test_a_question_is_found(source: str) -> None:
    assert list(told_apart(source))


def test_every_name_has_its_format() -> None:
    assert tuple(FORMATS) == get_args(WeightQuantizer)
    assert {name: known.name for name, known in FORMATS.items()} == {name: name for name in FORMATS}
    assert FORMATS[DEFAULT] is EDGE_FORMAT


def test_a_file_tells_a_format_by_the_node_that_gives_its_codes() -> None:
    for known in FORMATS.values():
        assert format_of_codes(known.codes_op).codes_op == known.codes_op
    assert format_of_codes("Relu") is EDGE_FORMAT
