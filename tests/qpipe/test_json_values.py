import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from qpipe.json_values import plain_rows, to_plain


@dataclasses.dataclass
class Row:
    name: str
    top1: float


class Model(BaseModel):
    x: tuple[int, ...] = (1, 2)


class Report:
    def to_json(self) -> dict[str, object]:
        return {"path": Path("a/b"), "value": np.float32(0.5)}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Row("a", 0.5), {"name": "a", "top1": 0.5}),
        (Model(), {"x": [1, 2]}),
        (Report(), {"path": "a/b", "value": 0.5}),
        (np.arange(3), [0, 1, 2]),
        (np.int64(7), 7),
        ({1: ("a", Row("b", float("nan")))}, {"1": ["a", {"name": "b", "top1": None}]}),
        (np.array([[1, np.inf]]), [[1, None]]),
        (float("nan"), None),
        (float("inf"), None),
        (True, True),
        (None, None),
    ],
)
def test_values_become_what_json_holds(value: object, plain: object) -> None:
    assert to_plain(value) == plain
    assert json.loads(json.dumps(to_plain(value), allow_nan=False)) == plain


def test_rows_are_objects() -> None:
    assert plain_rows([Row("a", 1.0), {"b": 2}, 3]) == [{"name": "a", "top1": 1.0}, {"b": 2}, {"value": 3}]
