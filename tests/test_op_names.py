"""ONNX's names of ops stand where an op is known, and nowhere else: whoever wants to know asks `qpipe.ops`.

An op's name may be a string

- in `qpipe/ops/`, which knows ops, in `passes/`, whose rewrites match them, and in `qpipe/ir/files/`, which reads
  graphs that others wrote;
- where a quantizer's form is read or written, of the parts of one: see `FORM_OF_A_QUANTIZER`;
- where a node is written, as the first argument of the call that does: what the lowerings emit is their own
  vocabulary. See `WRITERS`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from qpipe.ops import OPS

ROOT = Path(__file__).parent.parent
KNOW_OPS = ("qpipe/ops/", "passes/", "qpipe/ir/files/")
FORM_OF_A_QUANTIZER = ("qpipe/ir/quantized/qdq.py", "qpipe/ir/quantized/write_constant.py",
                       "qpipe/ir/quantized/write_trained.py", "qpipe/ir/quantized/tables.py",
                       "qpipe/formats/")  # fmt: skip
PARTS = frozenset({"QuantizeLinear", "DequantizeLinear", "Clip", "Cast", "Gather", "GatherElements", "Reshape"})
WRITERS = ("qpipe/lowering/", "qpipe/arith/symbolic.py")
WRITING = frozenset({"node", "emit", "_binary"})
FILES_WITH_NAMES = 0
"""43 before an op said all that is known of it."""


def names_in(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each op that a file has no business to name."""
    if path.startswith(KNOW_OPS):
        return
    tree = ast.parse(source)
    written = {id(node) for call in ast.walk(tree) for node in _written(call)} if path.startswith(WRITERS) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPS:
            is_part = path.startswith(FORM_OF_A_QUANTIZER) and node.value in PARTS
            if not is_part and id(node) not in written:
                yield node.lineno, node.value


def _written(call: ast.AST) -> list[ast.expr]:
    """The name in a call that writes a node."""
    is_writing = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in WRITING
    return call.args[:1] if is_writing else []


def test_rooms_outside_of_ops_name_no_op() -> None:
    found = {}
    for file in sorted((ROOT / "qpipe").rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if names := list(names_in(path, file.read_text())):
            found[path] = names
    assert len(found) == FILES_WITH_NAMES, found


@pytest.mark.parametrize(
    ("path", "source", "names"),
    [
        ("qpipe/ir/x.py", "if node.op_type == 'Conv': pass", ["Conv"]),
        ("qpipe/ir/x.py", "_SKIP = frozenset({'MaxPool', 'Pad'})", ["MaxPool", "Pad"]),
        ("qpipe/ir/x.py", "ir.node('Relu', [x])", ["Relu"]),
        ("qpipe/lowering/x.py", "b.emit('Clip', [x]); b.node('Pad', [x])", []),
        ("qpipe/lowering/x.py", "if layer.op_type == 'Clip': b.emit('Clip', [x])", ["Clip"]),
        ("qpipe/ir/quantized/qdq.py", "node.op_type == 'Clip' or node.op_type == 'Relu'", ["Relu"]),
        ("qpipe/ops/x.py", "op_types = ('Conv',)", []),
        ("passes/x.py", "node.op_type == 'Conv'", []),
    ],
)
def test_names_are_found(path: str, source: str, names: list[str]) -> None:
    assert sorted(name for _, name in names_in(path, source)) == names
