import dataclasses
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import (
    CERTIFICATE,
    PREPROCESS,
    AppliedPass,
    add_provenance,
    get_input_sha256,
    get_json,
    get_object,
    get_provenance,
    set_input_sha256,
    set_json,
)


@pytest.fixture
def model():
    return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 21}), ir_version=10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SomePass:
    name: ClassVar[str] = "some-pass"
    bits: int = 8
    percentile: float = 99.99
    data: Path = Path("cifar10.npz")
    seed: int | None = None


def test_values_come_back(model):
    value = {"mean": [0.485, 0.1], "layout": "NCHW", "crop": None, "flip": True, "n": 2**53}
    set_json(model, PREPROCESS, value)
    assert get_json(model, PREPROCESS) == value
    assert get_object(model, PREPROCESS) == value
    assert list(model.metadata_props) == ["qpipe.preprocess"]


def test_equal_values_give_equal_text(model):
    set_json(model, CERTIFICATE, {"a": 1, "b": 2})
    text = model.metadata_props["qpipe.certificate"]
    set_json(model, CERTIFICATE, {"b": 2, "a": 1})
    assert model.metadata_props["qpipe.certificate"] == text == '{"a":1,"b":2}'


def test_nothing_is_none_and_none_removes(model):
    assert get_json(model, PREPROCESS) is None
    assert get_object(model, PREPROCESS) is None
    assert get_provenance(model) == []
    assert get_input_sha256(model) is None
    set_json(model, PREPROCESS, {})
    set_json(model, PREPROCESS, None)
    set_json(model, PREPROCESS, None)
    assert not model.metadata_props


def test_nan_is_refused_both_ways(model):
    with pytest.raises(ValueError, match="JSON compliant"):
        set_json(model, CERTIFICATE, {"a": float("nan")})
    model.metadata_props["qpipe.certificate"] = '{"a": NaN}'
    with pytest.raises(ModelError, match=r"metadata 'qpipe\.certificate': NaN is not a number; expected JSON"):
        get_json(model, CERTIFICATE)


def test_provenance_grows_in_order(model):
    add_provenance(model, AppliedPass.of(SomePass(bits=4)))
    add_provenance(model, AppliedPass(name="other", arguments={"x": 1}))
    first, second = get_provenance(model)
    assert first == AppliedPass(
        name="some-pass", arguments={"bits": 4, "percentile": 99.99, "data": "cifar10.npz", "seed": None}
    )
    assert second.name == "other"
    assert get_json(model, "provenance") == [
        {"pass": "some-pass", "arguments": dict(first.arguments)},
        {"pass": "other", "arguments": {"x": 1}},
    ]


@pytest.mark.parametrize(
    "text", ["{", "", "{}", "[1]", '[{"arguments": {}}]', '[{"pass": 3}]', '[{"pass": "a", "arguments": 1}]']
)
def test_damaged_provenance_is_named(model, text):
    model.metadata_props["qpipe.provenance"] = text
    with pytest.raises(ModelError, match=r"metadata 'qpipe\.provenance'"):
        get_provenance(model)


def test_an_object_is_expected(model):
    set_json(model, PREPROCESS, [1])
    with pytest.raises(ModelError, match="is a JSON list, expected an object"):
        get_object(model, PREPROCESS)


def test_input_sha256(model):
    set_input_sha256(model, "0123456789abcdef" * 4)
    assert get_input_sha256(model) == "0123456789abcdef" * 4
    for damaged in ("abc", 5, "G" * 64):
        set_json(model, "input_sha256", damaged)
        with pytest.raises(ModelError, match="expected 64 hexadecimal digits"):
            get_input_sha256(model)
