"""Every option of every verb: shown by `help`, and refused from Python as from the command line."""

import inspect
import pydoc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic.fields import FieldInfo

import qpipe
from qpipe.cli.main import main
from qpipe.cli.options import flag
from qpipe.errors import RecipeError
from qpipe.settings import LayersSettings, Settings
from qpipe.settings.options import options_of, settings_of

# What each is called with besides, from Python and as words; nothing of it is read before the options are right.
VERBS: dict[str, tuple[tuple[Any, ...], str]] = {
    "inspect": (("none.onnx",), "none.onnx"),
    "calibrate": (("none.onnx", "none.npz"), "none.onnx --data none.npz -o q.onnx"),
    "adopt": (("none.onnx", "none.npz"), "none.onnx --data none.npz -o q.onnx"),
    "finetune": (("none.onnx", "none.npz"), "none.onnx --data none.npz -o q.onnx"),
    "export": (("none.onnx",), "none.onnx -o q.onnx"),
    "validate": ((["none.onnx"], "none.npz"), "none.onnx --data none.npz"),
    "bench": ((["none.onnx"],), "none.onnx"),
    "energy": (("none.onnx",), "none.onnx"),
    "report": (("none.onnx",), "none.onnx -o page.html"),
}
OF_NO_KIND = 1j


def models_of(verb: str) -> list[type[Settings]]:
    return list(settings_of(inspect.unwrap(getattr(qpipe, verb))).values())


FIELDS = [(verb, *item) for verb in VERBS for model in models_of(verb) for item in model.model_fields.items()]
each_field = pytest.mark.parametrize(
    ("verb", "name", "field"), FIELDS, ids=[f"{field[0]}-{field[1]}" for field in FIELDS]
)


def beyond(field: FieldInfo) -> Iterator[float]:
    """Values just beyond the field's limits, or nothing where it has none."""
    for limit in field.metadata:
        for bound, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            if (value := getattr(limit, bound, None)) is not None:
                yield value + step if "int" in str(field.annotation) else float(value + step)


def line_of(call: Callable[[], Any]) -> str:
    with pytest.raises(RecipeError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def from_python(verb: str, **options: Any) -> str:
    return line_of(lambda: getattr(qpipe, verb)(*VERBS[verb][0], **options))


def from_the_command_line(verb: str, words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([verb, *VERBS[verb][1].split(), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("qpipe: error: ")


def test_every_verb_is_here() -> None:
    assert set(VERBS) == {name for name in qpipe.__all__ if not name.endswith("Error")}
    assert all(models_of(verb) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option(verb: str) -> None:
    function = getattr(qpipe, verb)
    parameters = inspect.signature(function).parameters
    text = " ".join(pydoc.render_doc(function, renderer=pydoc.plaintext).split())
    for option in (option for model in models_of(verb) for option in options_of(model)):
        assert parameters[option.name].default == option.default
        assert parameters[option.name].annotation == option.type
        assert f"{option.name}: {option.help}." in text
        assert option.help != "None"


@each_field
def test_a_value_of_another_kind(verb: str, name: str, field: FieldInfo) -> None:
    assert from_python(verb, **{name: OF_NO_KIND}).startswith(f"{name}: {OF_NO_KIND}, expected ")


@pytest.mark.parametrize("verb", ["inspect", "bench"])
def test_of_several_inputs_the_wrong_one_is_named(verb: str) -> None:
    wrong = from_python(verb, input_shape={"x": [1, 4], "z": "four"})
    assert wrong == "input_shape z: 'four', expected a list"
    beyond_it = from_python(verb, input_shape={"x": [1, 4], "z": [1, 0]})
    assert beyond_it == "input_shape z: 0, expected greater than or equal to 1"


@each_field
def test_a_value_beyond_the_limits(verb: str, name: str, field: FieldInfo, capsys: pytest.CaptureFixture[str]) -> None:
    for value in beyond(field):
        line = from_python(verb, **{name: value})
        assert line.startswith(f"{name}: {value!r}, expected ")
        assert from_the_command_line(verb, f"{flag(name)} {value}", capsys) == line.replace(name, flag(name), 1)


@pytest.mark.parametrize("value", ["onnx", "QDQ", None, 1])
def test_a_choice_that_there_is_not(value: Any) -> None:
    assert from_python("export", format=value) == f"format: {value!r}, expected 'qoperator', 'integer' or 'qdq'"


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option(verb: str) -> None:
    (name, *_) = (option.name for model in models_of(verb) for option in options_of(model))
    assert from_python(verb, **{f"{name}x": 1}) == f"{name}x: unknown option of {verb}, did you mean '{name}'?"
    assert from_python(verb, zzz=1).startswith("zzz: unknown option of ")


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("calibrate", {"percentile": 200.0}, "percentile: 200.0, expected less than or equal to 100"),
        ("calibrate", {"quantizer": "dorefa"}, "weight_bits: 8, expected 2 to 7 with the quantizer 'dorefa'"),
        ("calibrate", {"skip_bits": 4}, "skip_bits: 4, expected activation_bits, 8, or more"),
        ("finetune", {"blocks": "a"}, "blocks: 'a', but without effect, expected it together with plain"),
        (
            "finetune",
            {"method": "ag", "batch_norm": "running"},
            "batch_norm: 'running', expected 'batch' with the method 'ag'",
        ),
        ("finetune", {"ssp_end": 0.5}, "ssp_end: 0.5, but without effect, expected it together with ssp"),
        (
            "finetune",
            {"schedule": "step"},
            "milestones: missing, but a step schedule needs the epochs at which it falls",
        ),
        ("export", {"layout": "NHWC"}, "layout: 'NHWC', but without effect, expected io 'integer' with it"),
        (
            "export",
            {"io": "integer", "format": "qdq"},
            "io: 'integer', but a qdq file has float inputs and outputs, expected the format qoperator or integer",
        ),
        ("bench", {"batch_sizes": (1, 0)}, "batch_sizes: 0, expected greater than or equal to 1"),
        ("bench", {"limit": 5}, "limit: 5, but no data were given; expected data to judge on"),
    ],
)
def test_what_does_not_go_together(
    verb: str, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert from_python(verb, **options) == message
    shown = {flag(name): ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in options.items()}
    words = " ".join(f"{name} {value}" for name, value in shown.items())
    option = message.partition(":")[0]
    assert from_the_command_line(verb, words, capsys) in {message, message.replace(option, flag(option), 1)}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"match": "a", "weight_bits": 9}], "layers[0] weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8"),
        ([{"match": "a", "weight_bits": 4}, "b"], "layers[1]: 'b', expected a table"),
        ([{"match": "a", "bits": 4}], "layers[0] bits: unknown key, expected one of match, weight_bits, "),
        ("abc", "layers: 'abc', expected a list"),
    ],
)
def test_layers(layers: Any, message: str) -> None:
    assert from_python("calibrate", layers=layers).startswith(message)
    assert LayersSettings(layers=[{"match": "a", "weight_bits": 4}]).layers[0].weight_bits == 4  # type: ignore[list-item]
