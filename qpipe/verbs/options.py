"""The Python verbs' options: keywords made from the settings models, checked as the command line's are."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar

from qpipe.settings.options import Option, expanded, options_of, settings_of

R = TypeVar("R")
_WIDTH = 116  # of 120, where the docstring stands four to the right


def takes_options(verb: Callable[..., R]) -> Callable[..., R]:
    """The verb with a keyword for each field of its settings, which its signature and its docstring show as well.

    Type checkers and editors read `qpipe/__init__.pyi`, which `tools/stub.py` writes.
    """
    made = expanded(verb, _parameter, _key)
    options = [option for model in settings_of(verb).values() for option in options_of(model)]
    head, args, tail = inspect.cleandoc(verb.__doc__ or "").partition("\nArgs:\n")
    arguments, gap, rest = tail.partition("\n\n")
    made.__doc__ = head + args + "\n".join([arguments, *map(_described, options)]) + gap + rest
    return made


def _parameter(option: Option) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(option.name, kind, default=option.default, annotation=option.type)


def _described(option: Option) -> str:
    """A line of the docstring's arguments, or several."""
    text = f"{option.name}: {option.help}."
    return textwrap.fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)


def _key(location: Sequence[int | str]) -> str:
    """What is at a place of the settings: an option, or a key of what some layers are told, "layers[0] weight_bits"."""
    option, *inside = location
    if option != "layers":
        return str(option)
    return option + "".join(f"[{part}]" if isinstance(part, int) else f" {part}" for part in inside)
