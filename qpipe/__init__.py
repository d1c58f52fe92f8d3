"""A trained network as ONNX becomes a proven integer-only ONNX network.

The verbs of the command line are functions here: `calibrate`, `adopt`, `finetune`, `export`, `validate`, `bench`,
`energy`, `report` and `inspect`. Each is imported when it is first asked for, so that `import qpipe` itself loads
neither torch nor onnx; what type checkers and editors know of them is in `__init__.pyi`.

    import qpipe

    qpipe.calibrate("net.onnx", "cifar10.npz", "net.qdq.onnx", preprocess={"mean": (0.5,), "std": (0.25,)})
    qpipe.export("net.qdq.onnx", "net.int8.onnx", format="qoperator")
"""

from importlib import import_module
from typing import Any

from qpipe.errors import DataError, LoweringError, ModelError, OutputError, ParityError, QpipeError, RecipeError

__all__ = [
    "DataError",
    "LoweringError",
    "ModelError",
    "OutputError",
    "ParityError",
    "QpipeError",
    "RecipeError",
    "adopt",
    "bench",
    "calibrate",
    "energy",
    "export",
    "finetune",
    "inspect",
    "report",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("qpipe")
        except PackageNotFoundError:
            return "unknown (not installed)"
    if name in __all__:
        verb = getattr(import_module(f"qpipe.verbs.{name}"), name)
        globals()[name] = verb
        return verb
    raise AttributeError(f"module 'qpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
