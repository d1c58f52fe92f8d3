"""Settings models as parameters of functions: of the commands, and of the Python verbs.

A function's parameter whose type is a `Settings` model becomes one parameter for each field of it, so that a name, a
type, a default, a limit and a line of help are written down once.
"""

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard, TypeVar, Union, get_args, get_origin

from qpipe.errors import RecipeError, near
from qpipe.settings.base import Accepts, Settings, has_nul, validated
from qpipe.settings.said_by_recipe import SaidByRecipe

R = TypeVar("R")
_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True)
class Option:
    """A field as a parameter. type, default: of what may be given; None is the default of what a recipe says.

    off: what the command line calls its False; None: by itself, "": nothing.
    """

    name: str
    type: Any
    default: Any
    help: str
    off: str | None

    @property
    def types(self) -> tuple[Any, ...]:
        """Those of which `type` is the union."""
        return get_args(self.type) if get_origin(self.type) in _UNIONS else (self.type,)

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return any(get_origin(part) is Sequence for part in self.types)

    @property
    def is_table(self) -> bool:
        """Whether it takes such lists by name, and may be given again."""
        return any(get_origin(part) is Mapping for part in self.types)


def options_of(model: type[Settings]) -> list[Option]:
    """The fields of a model, in order."""
    options = []
    for name, field in model.model_fields.items():
        type_, default = accepted(field.rebuild_annotation()), field.default
        if any(isinstance(note, SaidByRecipe) for note in field.metadata):
            type_, default = type_ | None, None
        extra = field.json_schema_extra
        off = extra.get("off") if isinstance(extra, dict) else None
        options.append(Option(name, type_, default, str(field.description), off if isinstance(off, str) else None))
    return options


def accepted(annotation: Any) -> Any:
    """The type of what may be given for a value of a field's type, without limits and notes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        notes = [note.type for note in arguments if isinstance(note, Accepts)]
        return notes[0] if notes else accepted(arguments[0])
    if origin in _UNIONS:
        return Union[tuple(map(accepted, arguments))]  # noqa: UP007 - of types that are only known here
    if origin is tuple:
        return Sequence[accepted(arguments[0])]  # type: ignore[misc]
    return Mapping[str, Any] if is_settings(annotation) else annotation


def is_settings(annotation: object) -> TypeGuard[type[Settings]]:
    """Whether it is a settings model."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def settings_of(function: Callable[..., Any]) -> dict[str, type[Settings]]:
    """The parameters of a function that are settings models, by name."""
    names = getattr(function, "__globals__", {})
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: names.get(p.annotation) if isinstance(p.annotation, str) else p.annotation for p in parameters}
    return {name: model for name, model in found.items() if is_settings(model)}


def expanded(
    function: Callable[..., R],
    parameter_of: Callable[[Option], inspect.Parameter],
    key_of: Callable[[Sequence[int | str]], str],
) -> Callable[..., R]:
    """`function` with each parameter that is a settings model replaced by `parameter_of` each of its fields.

    What is given is validated; a wrong value is a RecipeError, which names it as `key_of` its place in the model says.
    """
    signature, groups = inspect.signature(function), settings_of(function)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        model = groups.get(parameter.name)
        if model is not None:
            parameters += map(parameter_of, options_of(model))
        elif parameters and parameters[-1].kind is inspect.Parameter.KEYWORD_ONLY:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            parameters.append(parameter)
    known = [parameter.name for parameter in parameters]

    @functools.wraps(function)
    def call(*positional: Any, **given: Any) -> R:
        for name in given:
            if name not in known:
                raise RecipeError(f"{name}: unknown option of {function.__name__}, {near(name, known)}")
        for name, value in (*zip(known, positional, strict=False), *given.items()):
            if has_nul(value):
                raise RecipeError(f"{name}: {value!r} has a NUL, expected none")
        for group, model in groups.items():
            fields = {name: given.pop(name) for name in model.model_fields if name in given}
            given[group] = validated(model, fields, key_of)
        return function(*positional, **given)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
