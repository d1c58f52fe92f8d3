"""Write `qpipe/__init__.pyi`: the verbs with all their options, for type checkers and editors.

Its signatures and docstrings are those that `help` shows at run time, which the settings models make.

    python tools/stub.py
"""

import ast
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import qpipe

STUB = Path(qpipe.__file__).with_suffix(".pyi")
ERRORS = [name for name in qpipe.__all__ if name.endswith("Error")]
VERBS = [name for name in qpipe.__all__ if name not in ERRORS]
STANDARD = {"os", "Callable", "Mapping", "Sequence", "Any", "Literal"}
HEAD = '''"""Written by `tools/stub.py`, which reads the verbs and their settings; change those, and write it anew."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
'''


def stub() -> str:
    """The text of the stub."""
    verbs = [getattr(qpipe, name) for name in VERBS]
    imports = {line for verb in verbs for line in imports_of(verb)}
    imports |= {f"from qpipe.errors import {name} as {name}" for name in ERRORS}
    bodies = [f"{signature_of(verb)}:\n{docstring_of(verb)}" for verb in verbs]
    return "\n".join([HEAD + "\n".join(sorted(imports)), "\n__version__: str\n", *bodies])


def signature_of(verb: Callable[..., Any]) -> str:
    """The head of its definition, a parameter a line."""
    signature, lines = inspect.signature(verb), [f"def {verb.__name__}("]
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"    {parameter.name}: {spelled(parameter.annotation)}{default},")
    return "\n".join([*lines, f") -> {spelled(signature.return_annotation)}"])


def docstring_of(verb: Callable[..., Any]) -> str:
    """Its docstring as it would stand in a file."""
    lines = f'"""{inspect.getdoc(verb)}\n"""'.splitlines()
    return "".join(f"    {line}\n" if line else "\n" for line in lines)


def spelled(annotation: Any) -> str:
    """A type as one writes it, the same with every version of Python; the verbs' own are text."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if annotation is ...:
        return "..."
    if origin in {Union, types.UnionType}:
        return " | ".join(map(spelled, arguments))
    name = {Literal: "Literal", os.PathLike: "os.PathLike"}.get(origin or annotation, (origin or annotation).__name__)
    spelling = repr if origin is Literal else spelled
    return name.replace("NoneType", "None") + (f"[{', '.join(map(spelling, arguments))}]" if arguments else "")


def imports_of(verb: Callable[..., Any]) -> Iterator[str]:
    """An import for each name in its signature that its module imports or defines."""
    used, module = set(re.findall(r"\w+", signature_of(verb))), inspect.getmodule(verb)
    assert module is not None
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name in used:
            yield f"from {module.__name__} import {node.name}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) in used - STANDARD:
                    node.names = [alias]
                    yield ast.unparse(node)


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
