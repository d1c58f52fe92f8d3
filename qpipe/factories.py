"""`package.module:factory`: a function of the user's own that makes a model or data."""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from qpipe.errors import QpipeError, user_code

# timm has a tag of the weights in a name, as in timm:resnet18.a1_in1k.
_FORM: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|timm:[\w.]+")


def names_factory(text: str) -> bool:
    """Whether a text has the form of one, or of a network of torchvision's or timm's."""
    return _FORM.fullmatch(text) is not None


def load_factory(spec: str, error: type[QpipeError], *, called: str, makes: str) -> Callable[..., Any]:
    """Import `package.module:factory`; modules of the current folder are found.

    error: what is raised where there is none. called: what messages call it; makes: what they expect of it.
    """
    package, _, name = spec.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        # Installed commands don't look into the current folder by themselves. Last, so that it shadows nothing; and it
        # stays, because a function may import when it is called.
        sys.path.append(os.getcwd())
    with user_code(error, f"{called}: module '{package}' can't be imported:"):
        module = importlib.import_module(package)
        found = hasattr(module, name)
    if not found:
        near = difflib.get_close_matches(name, dir(module), n=1)
        raise error(f"{called}: module '{package}' has no '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    factory = getattr(module, name)
    if not callable(factory):
        raise error(f"{called}: '{name}' is {type(factory).__name__}, expected a function {makes}")
    return factory  # type: ignore[no-any-return]
