"""What a model carries about itself: JSON values in `metadata_props`, under keys that start with ``qpipe.``.

| key                   | value                                                             |
|-----------------------|-------------------------------------------------------------------|
| `qpipe.preprocess`    | how pixels become the network's input                             |
| `qpipe.provenance`    | list of ``{"pass": name, "arguments": {...}}``, in order of running |
| `qpipe.input_sha256`  | SHA-256 of the file that everything started from                  |
| `qpipe.sizes`         | of each input that is open: ``{"at": [...], "declared": [...]}``, what it is computed at |
| `qpipe.calibration`   | the settings that `calibrate` was given, but those of skips |
| `qpipe.comparison`    | of a calibrated network: signal to noise of each tensor beside the float network, problems |
| `qpipe.certificate`   | the exactness certificate                                         |
| `qpipe.training`      | the last run of training: its epochs, accuracies, settings and diagnostics |
| `qpipe.plain`         | the stripped skips: list of ``{"name": block, "layers": [...], "removed": [...]}`` |
| `qpipe.binary`        | binary residual blocks: list of ``{"name", "layers": [...], "end": Add, "sums": [Adds]}`` |
| `qpipe.io`            | pixel layout and output scales of a file with integer inputs and outputs |
| `qpipe.cut_tail`      | names of the float nodes that such a file leaves out              |
| `qpipe.keeps_order`   | true where they change no order of scores, as a Softmax           |
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import onnx_ir as ir
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from qpipe.errors import ModelError, first_problem, one_line

T = TypeVar("T")

PREPROCESS: Final = "preprocess"
PROVENANCE: Final = "provenance"
INPUT_SHA256: Final = "input_sha256"
ADOPTED: Final = "adopted"
"""How many tensors kept a range that another tool's quantizers said (`ranges`), and `float_layers` that it left."""
CALIBRATION: Final = "calibration"
COMPARISON: Final = "comparison"
CERTIFICATE: Final = "certificate"
TRAINING: Final = "training"
FLOAT_PHASE: Final = "float"
"""What the record of training calls the float network among the phases."""
PLAIN: Final = "plain"
KEEPS_ORDER: Final = "keeps_order"
BINARY: Final = "binary"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppliedPass:
    """One pass that ran on the model, with its arguments."""

    name: Annotated[str, Field(alias="pass")]
    arguments: Mapping[str, JsonValue] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, pass_: Any) -> "AppliedPass":
        """What to record of a pass, a dataclass with `name`: its fields are its arguments, paths as text.

        A field whose metadata say `argument` False (the data that a pass reads) is none.
        """
        fields = [field for field in dataclasses.fields(pass_) if field.metadata.get("argument", True)]
        return cls(name=pass_.name, arguments={field.name: _argument(getattr(pass_, field.name)) for field in fields})


def get_json(model: ir.Model, name: str) -> JsonValue:
    """The value stored as ``qpipe.<name>``, None where there is none; ModelError where it isn't JSON."""
    key = _key(name)
    text = model.metadata_props.get(key)
    if text is None:
        return None
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"metadata '{key}': {one_line(error)}; expected JSON") from error
    return value


def set_json(model: ir.Model, name: str, value: JsonValue) -> None:
    """Store `value` as ``qpipe.<name>``; None removes the key. Equal values give equal text; NaN is refused."""
    key = _key(name)
    if value is None:
        model.metadata_props.pop(key, None)
    else:
        model.metadata_props[key] = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def get_object(model: ir.Model, name: str) -> dict[str, JsonValue] | None:
    """The JSON object stored as ``qpipe.<name>`` (preprocess, certificate) or None; ModelError if it is no object."""
    value = get_json(model, name)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"metadata '{_key(name)}': is a JSON {type(value).__name__}, expected an object")
    return value


def checked(name: str, value: object, kind: type[T]) -> T:
    """What stands as ``qpipe.<name>`` as a dataclass or model, or a list of such; ModelError names the wrong key."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ModelError(f"metadata '{_key(name)}': {first_problem(error)}") from None


def get_provenance(model: ir.Model) -> list[AppliedPass]:
    """The passes that ran, oldest first."""
    entries = get_json(model, PROVENANCE)
    return [] if entries is None else checked(PROVENANCE, entries, list[AppliedPass])


def add_provenance(model: ir.Model, applied: AppliedPass) -> None:
    """Append one pass to the provenance."""
    entries = [*get_provenance(model), applied]
    set_json(model, PROVENANCE, [{"pass": entry.name, "arguments": dict(entry.arguments)} for entry in entries])


def get_input_sha256(model: ir.Model) -> str | None:
    """SHA-256 of the first file, 64 hexadecimal digits, or None."""
    value = get_json(model, INPUT_SHA256)
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ModelError(f"metadata '{_key(INPUT_SHA256)}': is {value!r}, expected 64 hexadecimal digits")
    return value


def set_input_sha256(model: ir.Model, digest: str) -> None:
    """Store the SHA-256 (hexadecimal) of the file that everything started from."""
    set_json(model, INPUT_SHA256, digest)


def _key(name: str) -> str:
    return f"qpipe.{name}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _argument(value: object) -> JsonValue:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
