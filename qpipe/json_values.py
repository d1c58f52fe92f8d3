"""Reports as plain JSON values: for `--json`, for report.json, and for tables."""

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_jsonable_python


def to_plain(value: Any) -> JsonValue:
    """`value` as what JSON can hold.

    A report with `to_json()` says it itself; arrays and numbers of numpy become lists and numbers; a float that is not
    finite becomes None, because JSON has no word for it.
    """
    own = value.to_json() if hasattr(value, "to_json") else value
    plain: JsonValue = to_jsonable_python(own, by_alias=False, inf_nan_mode="null", fallback=_plain)
    return plain


def plain_rows(rows: Sequence[Any]) -> list[dict[str, JsonValue]]:
    """Rows of a report, each as an object; a row that is no object stands under `value`."""
    plain = [to_plain(row) for row in rows]
    return [row if isinstance(row, dict) else {"value": row} for row in plain]


def _plain(value: Any) -> Any:
    """What pydantic does not know: numpy's, or anything by its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
