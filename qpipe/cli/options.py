"""Options that commands share, and options made from the settings models.

A command's parameter whose type is a `Settings` model becomes one option per field, so that a name, a default, a limit
and a line of help are written down once for the recipe and for the command line:

    @expand_settings
    def calibrate(model: ModelArgument, settings: CalibrateSettings, json: JsonOption = False) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from qpipe.errors import RecipeError
from qpipe.settings import DataSettings, LayerSettings, ModelSettings, Settings, validated

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=ModelSettings.model_fields["path"].description)]
ModelsArgument = Annotated[list[str], typer.Argument(metavar="MODEL...", help="models: float, QDQ or exported")]
QdqArgument = Annotated[str, typer.Argument(metavar="QDQ", help="a QDQ .onnx file")]
DataOption = Annotated[str, typer.Option("--data", help=DataSettings.model_fields["path"].description)]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="the file to write")]
LayerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="MATCH:KEY=VALUE,...",
        help="what some layers are told, as layer3.*:weight_bits=4,activation_bits=4; may be given again",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="one seed, one result on one machine")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]


def expand_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each `Settings` parameter replaced by one option for each of its fields.

    The options' values are validated as the recipe's are; a wrong one is a RecipeError that names the option.
    """
    signature = inspect.signature(command)
    groups = {p.name: p.annotation for p in signature.parameters.values() if _is_settings(p.annotation)}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name in groups:
            fields = groups[parameter.name].model_fields
            parameters += [_option(name, field) for name, field in fields.items()]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for group, model in groups.items():
            given = {name: _parsed(field, values.pop(name)) for name, field in model.model_fields.items()}
            values[group] = validated(model, given, _flag_at)
        command(**values)

    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return expanded


def parse_layers(words: Sequence[str] | None) -> list[LayerSettings]:
    """The words of `--layer` as entries, as a recipe's [[layer]]; a wrong one is a RecipeError that shows the word."""
    return [_layer(word) for word in words or ()]


def _layer(word: str) -> LayerSettings:
    match, colon, options = word.rpartition(":")
    pairs = [option.partition("=") for option in options.split(",")]
    if not colon or not all(equals for _, equals, _ in pairs):
        raise RecipeError(f"--layer: {word!r}, expected MATCH:KEY=VALUE,... as in 'layer3.*:weight_bits=4'")
    given = {"match": match} | {key.strip(): _number(value) for key, _, value in pairs}
    return validated(LayerSettings, given, lambda location: f"--layer {word!r}: {location[0]}")


def flag(name: str) -> str:
    """The option's name of a field's: `weight_bits` is `--weight-bits`."""
    return "--" + name.replace("_", "-")


def _flag_at(location: Sequence[int | str]) -> str:
    return flag(str(location[0]))


def _is_settings(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """A field as a parameter that typer reads: its flag, type, default and help."""
    declaration, default = flag(name), field.default
    annotation: Any = _without_annotated(field.annotation)
    if bool in (annotation, *get_args(annotation)):
        extra = field.json_schema_extra
        off = extra.get("off") if isinstance(extra, dict) else None
        declaration += f"/--{off or 'no-' + declaration.removeprefix('--')}"
    if _is_list(field):
        annotation = str | None
        default = None if default is None else ",".join(map(str, default))
    info = typer.Option(declaration, help=field.description, metavar="A,B,..." if _is_list(field) else None)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _without_annotated(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_list(field: FieldInfo) -> bool:
    """Whether the field holds several numbers; on the command line they are one word with commas."""
    candidates = (field.annotation, *get_args(field.annotation))
    return any(get_origin(_without_annotated(candidate)) is tuple for candidate in candidates)


def _parsed(field: FieldInfo, value: Any) -> Any:
    """The words of a list as numbers; what is no number stays a word, for the model to refuse."""
    return tuple(map(_number, value.split(","))) if _is_list(field) and isinstance(value, str) else value


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
