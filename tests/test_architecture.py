"""The house's rules, held by reading the source: who may import whom, how long a file is, what `import qpipe` costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 300
PACKAGES = ("qpipe", "passes")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# What each room may import of ours, besides itself; None: everything.
FOUNDATION = frozenset({"errors", "progress"})
NUMBERS = FOUNDATION | {"arith", "formats", "nodes", "ir", "ops", "lowering"}
MAY_IMPORT: dict[str, frozenset[str] | None] = {
    "errors": frozenset(),
    "progress": frozenset({"errors"}),
    "json_values": FOUNDATION,
    "processes": FOUNDATION,
    "factories": FOUNDATION,
    "settings": FOUNDATION | {"arith", "formats"},
    "recipe": FOUNDATION | {"settings", "factories"},
    "arith": FOUNDATION,
    "nodes": FOUNDATION,
    "formats": FOUNDATION | {"arith", "nodes"},
    "ops": FOUNDATION | {"arith", "nodes"},
    "ir": FOUNDATION | {"arith", "formats", "nodes", "ops", "factories"},
    "lowering": FOUNDATION | {"arith", "nodes", "ops", "ir"},
    "data": NUMBERS | {"factories", "processes"},
    "calibration": NUMBERS | {"data", "runtime", "processes"},
    "tasks": FOUNDATION | {"nodes", "ops", "settings"},
    "train": NUMBERS | {"data", "processes", "settings", "tasks"},
    "runtime": NUMBERS | {"data", "processes", "tasks"},
    "passes": NUMBERS | {"data", "calibration", "train", "runtime"},
    "reporting": NUMBERS | {"json_values", "state", "settings"},
    "verbs": NUMBERS
    | {"data", "calibration", "tasks", "train", "runtime", "passes", "json_values", "processes", "reporting"}
    | {"settings"},
    "state": FOUNDATION | {"ir", "qpipe"},
    "pipeline": FOUNDATION | {"ir", "json_values", "processes", "qpipe", "recipe", "settings", "state", "verbs"},
    "demo": None,
    "cli": None,
    # The package itself names the verbs, and imports them when they are asked for.
    "qpipe": FOUNDATION | {"verbs"},
    "__main__": frozenset({"cli"}),
}
# What a room may know of others by their types alone: it is handed their objects.
BY_TYPE: dict[str, frozenset[str]] = {"ops": frozenset({"ir", "lowering"})}
# Frameworks, and the rooms that may name them.
TORCH_ROOMS = frozenset({"arith", "train", "data", "demo"})
LAZY_TORCH_ROOMS = TORCH_ROOMS | {"ops", "ir", "processes", "calibration"}
RUNTIME_ROOMS = frozenset({"runtime"})
HEAVY = frozenset(
    {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "PIL", "matplotlib", "jinja2", "sklearn"}
)
ONNX = {"numpy", "onnx", "onnx_ir"}


def room_of(file: Path) -> str:
    """`qpipe/data/npz.py` is in `data`, `qpipe/recipe.py` in `recipe`, a pass in `passes`."""
    package, *inside = file.relative_to(ROOT).parts
    if package == "passes":
        return "passes"
    return "qpipe" if inside == ["__init__.py"] else Path(inside[0]).stem


def room_of_module(module: str) -> str:
    package, *inside = module.split(".")
    return "passes" if package == "passes" else (inside or ["qpipe"])[0]


def imports(tree: ast.Module, *, lazy: bool = True, typing: bool = False) -> Iterator[tuple[str, int]]:
    """Each imported module with its line: `lazy` ones in functions too, `typing` ones for the type checker only too."""
    yield from _imports_in(tree.body, lazy, typing)


def _imports_in(body: list[ast.stmt], lazy: bool, typing: bool) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            module = node.module or ""
            inside = module in PACKAGES
            yield from ((f"{module}.{alias.name}" if inside else module, node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _imports_in(node.body if typing else node.orelse, lazy, typing)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _imports_in(getattr(node, field, []), lazy, typing)
            for handler in getattr(node, "handlers", []):
                yield from _imports_in(handler.body, lazy, typing)


def forbidden_rooms(file: Path, source: str) -> list[str]:
    """`line: room` for each import that the directions forbid."""
    room = room_of(file)
    allowed = MAY_IMPORT[room]
    if allowed is None:
        return []
    tree, known = ast.parse(source), {room, *allowed}
    running, typing = (
        {(room_of_module(m), line) for m, line in imports(tree, typing=typing) if m.split(".")[0] in PACKAGES}
        for typing in (False, True)
    )
    forbidden = {(target, line) for target, line in running if target not in known}
    forbidden |= {(target, line) for target, line in typing if target not in known | BY_TYPE.get(room, frozenset())}
    return [f"line {line}: {target}" for target, line in sorted(forbidden)]


def identify(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=identify)
def test_rooms_import_in_one_direction(file: Path) -> None:
    assert room_of(file) in MAY_IMPORT, f"{identify(file)}: a new room; say in MAY_IMPORT what it may import"
    assert forbidden_rooms(file, file.read_text()) == []


@pytest.mark.parametrize("file", SOURCES, ids=identify)
def test_frameworks_stay_in_their_rooms(file: Path) -> None:
    room, tree = room_of(file), ast.parse(file.read_text())
    eager = {module.split(".")[0] for module, _ in imports(tree, lazy=False)}
    anywhere = {module.split(".")[0] for module, _ in imports(tree)}
    if room not in TORCH_ROOMS:
        assert "torch" not in eager
    if room not in LAZY_TORCH_ROOMS:
        assert "torch" not in anywhere
    if room not in RUNTIME_ROOMS:
        assert "onnxruntime" not in anywhere


@pytest.mark.parametrize(
    "file", [f for p in (*PACKAGES, "tests", "tools") for f in sorted((ROOT / p).rglob("*.py"))], ids=identify
)
def test_files_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_LINES


def test_what_the_smoke_test_names_is_there() -> None:
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("SMOKE := "))
    assert [path for path in line.removeprefix("SMOKE := ").split() if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("qpipe/arith/x.py", "from qpipe.ir.files.load import load_model"),
        ("qpipe/arith/x.py", "def f():\n    import qpipe.ir.files.load"),
        ("qpipe/ir/x.py", "from qpipe import data"),
        ("qpipe/ops/x.py", "def f():\n    from qpipe.lowering.im2col import convolve"),
        ("qpipe/ops/x.py", "if TYPE_CHECKING:\n    from qpipe.train.executor import Executor"),
        ("qpipe/train/x.py", "if TYPE_CHECKING:\n    from passes.shipping.finalize import Finalize"),
        ("qpipe/data/x.py", "try:\n    import qpipe.verbs\nexcept ImportError:\n    import qpipe.cli.main"),
    ],
)
def test_a_forbidden_import_is_found_wherever_it_stands(path: str, source: str) -> None:
    assert forbidden_rooms(ROOT / path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "qpipe/ir/x.py",
            "from qpipe.arith.spec import QuantSpec\nfrom qpipe.ir.files.load import load_model\nimport onnx",
        ),
        ("qpipe/ops/x.py", "if TYPE_CHECKING:\n    from qpipe.ir.quantized.view import QuantizedLayer"),
        ("qpipe/verbs/x.py", "from passes.shipping.finalize import Finalize"),
    ],
)
def test_an_allowed_import_is_not(path: str, source: str) -> None:
    assert forbidden_rooms(ROOT / path, source) == []


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import qpipe", set()),
        ("import qpipe; dir(qpipe)", set()),
        ("import qpipe.cli.main", set()),
        ("from qpipe.cli.main import main; main(['--help'])", set()),
        ("from qpipe.cli.main import main; main(['calibrate', '--help'])", set()),
        ("import qpipe.recipe", set()),
        ("import qpipe.ir.files.load", ONNX),
        ("import qpipe.ir.cost.value_sizes", ONNX),
        ("import passes.normalize", ONNX),
        ("import qpipe.pipeline", ONNX),
        ("import qpipe; qpipe.finetune", ONNX),
        ("import qpipe; qpipe.inspect", ONNX | {"onnxscript"}),
        ("import qpipe; qpipe.report", ONNX | {"onnxscript"}),
        ("import qpipe; qpipe.energy", ONNX | {"onnxscript"}),
        ("import qpipe; qpipe.calibrate", ONNX | {"onnxscript", "onnxruntime"}),
        ("import qpipe; qpipe.bench", ONNX | {"onnxscript", "onnxruntime"}),
    ],
)
def test_no_heavy_import_before_it_is_needed(statement: str, loaded: set[str]) -> None:
    assert HEAVY & modules_after(statement) <= loaded


def test_one_pass_loads_no_other() -> None:
    ours = {module for module in modules_after("import passes.rewrites.remove_identity") if module.startswith("passes")}
    assert ours == {"passes", "passes.rewrites", "passes.rewrites.remove_identity"}


def modules_after(statement: str) -> set[str]:
    """What a new process has loaded then."""
    code = f"import sys; {statement}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stderr.split())
