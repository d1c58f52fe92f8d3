"""Reports as plain JSON values: for `--json`, for report.json, and for tables."""

import dataclasses
import math
from collections.abc import Mapping, Sequence, Set
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, JsonValue


def to_plain(value: Any) -> JsonValue:
    """`value` as what JSON can hold.

    Objects with `to_json()` say it themselves; dataclasses, pydantic models and named tuples become objects, arrays
    and numbers of numpy lists and numbers, fractions floats; a float that is not finite becomes None, because JSON has
    no word for it.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseModel):
        return to_plain(value.model_dump())
    if callable(getattr(value, "to_json", None)):
        return to_plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return to_plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    if callable(getattr(value, "tolist", None)):
        return to_plain(value.tolist())
    return str(value)


def plain_rows(rows: Sequence[Any]) -> list[dict[str, JsonValue]]:
    """Rows of a report, each as an object; a row that is no object stands under `value`."""
    plain = [to_plain(row) for row in rows]
    return [row if isinstance(row, dict) else {"value": row} for row in plain]
