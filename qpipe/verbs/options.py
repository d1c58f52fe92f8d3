"""The Python verbs' options: keywords made from the settings models, checked as the command line's are."""

from __future__ import annotations

import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from qpipe.settings.options import Option, expanded, options_of, settings_of
from qpipe.verbs.sources import about

R = TypeVar("R")
_WIDTH = 116  # of 120, where the docstring stands four to the right


def takes_options(verb: Callable[..., R]) -> Callable[..., R]:
    """The verb with a keyword for each field of its settings, which its signature and its docstring show as well.

    What is wrong with a model names the file, where the verb's first argument is the path of one, and the message does
    not name another one that an option gave.
    Type checkers and editors read `qpipe/__init__.pyi`, which `tools/stub.py` writes.
    """
    options = [option for model in settings_of(verb).values() for option in options_of(model)]
    files = [option.name for option in options if os.PathLike[str] in option.types]
    made = _naming_file(expanded(verb, _parameter, _key), files)
    head, args, tail = inspect.cleandoc(verb.__doc__ or "").partition("\nArgs:\n")
    arguments, gap, rest = tail.partition("\n\n")
    made.__doc__ = head + args + "\n".join([arguments, *map(_described, options)]) + gap + rest
    return made


def _naming_file(verb: Callable[..., R], files: Sequence[str]) -> Callable[..., R]:
    first = next(iter(inspect.signature(verb).parameters))

    @functools.wraps(verb)
    def call(*positional: Any, **given: Any) -> R:
        model = positional[0] if positional else given.get(first)
        others = [os.fspath(given[name]) for name in files if isinstance(given.get(name), str | os.PathLike)]
        with about(os.fspath(model), *others) if isinstance(model, str | os.PathLike) else nullcontext():
            return verb(*positional, **given)

    return call


def _parameter(option: Option) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(option.name, kind, default=option.default, annotation=option.type)


def _described(option: Option) -> str:
    """A line of the docstring's arguments, or several."""
    text = f"{option.name}: {option.help}."
    return textwrap.fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)


def _key(location: Sequence[int | str]) -> str:
    """What is at a place of the settings: an option, or a key of it, "layers[0] weight_bits" or "input_shape x"."""
    option, *inside = location
    if option != "layers":
        # Of a list the value itself says which one it is; an only input has no name.
        return " ".join([str(option), *(part for part in inside if isinstance(part, str) and part)])
    return option + "".join(f"[{part}]" if isinstance(part, int) else f" {part}" for part in inside)
