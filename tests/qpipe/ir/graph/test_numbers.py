"""Parameters that are not numbers are refused by every verb, in one line that names the node and the constant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.graph.numbers import LARGEST, check_numbers, number_problems
from support.networks import float_model
from support.quantize import quantized

IMAGES = np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)


def network(**changed: tuple[tuple[int, ...], float]) -> ir.Model:
    """Conv, BatchNormalization, ReLU, Conv with a bias; name=(index, value) changes one number of a constant."""
    rng = np.random.default_rng(1)
    constants: dict[str, Any] = {
        "w": rng.normal(size=(4, 3, 3, 3)), "gamma": rng.uniform(0.5, 2, 4), "beta": rng.normal(size=4),
        "mean": rng.normal(size=4), "var": rng.uniform(0.5, 2, 4), "v": rng.normal(size=(2, 4, 1, 1)),
        "bias": rng.normal(size=2),
    }  # fmt: skip
    for name, (index, value) in changed.items():
        constants[name][index] = value
    nodes = [
        "[c1] a = Conv(x, w)",
        "[bn] b = BatchNormalization(a, gamma, beta, mean, var)",
        "[r] r = Relu(b)",
        "[c2] y = Conv(r, v, bias)",
    ]
    return float_model("numbers", (3, 6, 6), nodes, **{k: v.astype(np.float32) for k, v in constants.items()})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"w": ((3, 2, 0, 1), np.nan)}, "Conv 'c1': its constant 'w' has 1 of 108 values that are NaN or infinite"),
        ({"w": ((3, 2, 0, 1), np.nan)}, r"the first at \[3, 2, 0, 1\]; expected finite ones"),
        ({"w": ((0, 0, 0, 0), 1e30)}, r"Conv 'c1': .* as large as 1e\+30, the first at .*; expected less than 2\*\*64"),
        ({"gamma": ((2,), np.inf)}, "BatchNormalization 'bn': its constant 'gamma' has 1 of 4 values that are NaN"),
        ({"beta": ((2,), -np.inf)}, "BatchNormalization 'bn': its constant 'beta'"),
        ({"mean": ((2,), np.nan)}, "BatchNormalization 'bn': its constant 'mean'"),
        ({"var": ((1,), -0.5)}, "'var' is a variance of -0.5 in channel 1, expected 0 or more"),
        ({"var": ((1,), -1e-9)}, "'var' is a variance of -1e-09 in channel 1, expected 0 or more"),
        ({"bias": ((1,), 1e30)}, r"Conv 'c2': its constant 'bias' has 1 of 2 values that are as large as 1e\+30"),
        ({"v": ((1, 0, 0, 0), -np.inf)}, "Conv 'c2': its constant 'v'"),
    ],
)
def test_each_is_named(changed: dict[str, Any], words: str) -> None:
    model = network(**changed)
    with pytest.raises(ModelError, match=words):
        check_numbers(model.graph)
    if np.isfinite([value for _, value in changed.values()]).all():
        with pytest.raises(ModelError, match=words):
            qpipe.calibrate(model, IMAGES)
        report = qpipe.inspect(model)
        assert not report.ready
        assert re.search(words, report.problems[0])
    else:  # loading refuses it, whatever it belongs to
        with pytest.raises(ModelError, match=f"'{next(iter(changed))}' contains"):
            qpipe.calibrate(model, IMAGES)


def test_a_constant_that_the_graph_computes_is_checked_too() -> None:
    """Each number of the file is finite, their product is not."""
    nodes = ["[m] product = Mul(w, big)", "[c] y = Conv(x, product)"]
    w, big = np.full((1, 3, 1, 1), 10, np.float32), np.float32(1e38)
    with pytest.raises(ModelError, match="Conv 'c': its constant 'product' has 3 of 3 values that are NaN or infinite"):
        qpipe.calibrate(float_model("one", (3, 6, 6), nodes, w=w, big=big), IMAGES)


def test_a_variance_of_zero_needs_an_epsilon() -> None:
    model = network(var=((3,), 0.0))
    check_numbers(model.graph)
    batch_norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    batch_norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    with pytest.raises(ModelError, match="variance of 0 in channel 3, expected more than 0 with the epsilon 0"):
        check_numbers(model.graph)


def test_an_epsilon_is_not_negative() -> None:
    model = network()
    batch_norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    batch_norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", -1e-3)
    with pytest.raises(ModelError, match=r"BatchNormalization '.*': its epsilon is -0\.001, expected 0 or more"):
        check_numbers(model.graph)


def test_healthy_parameters_pass() -> None:
    assert list(number_problems(network().graph)) == []
    assert list(number_problems(network(w=((0, 0, 0, 0), LARGEST / 2)).graph)) == []


@pytest.mark.parametrize(
    ("op_type", "index", "value", "wrong"),
    [("QuantizeLinear", 0, 1e30, "has 1 of"), ("BatchNormalization", 4, -0.5, "is a variance of -0.5 in channel 1")],
)
def test_a_quantized_file_is_checked_as_well(
    op_type: str, index: int, value: float, wrong: str, tmp_path: Path
) -> None:
    """By what finalizes it, and before it is trained: neither a diverged run nor a damaged file becomes integers."""
    proto = ir.to_proto(quantized(network(), [IMAGES]))
    node = next(n for n in proto.graph.node if n.op_type == op_type and (op_type != "QuantizeLinear" or "c1" in n.name))
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[index])
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[1] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path = tmp_path / "damaged.onnx"
    onnx.save(proto, path)
    words = rf"damaged.onnx: {op_type} '.*': its constant '{tensor.name}' {wrong}"
    with pytest.raises(ModelError, match=words):
        qpipe.export(path)
    with pytest.raises(ModelError, match=words):
        qpipe.validate(path, IMAGES)
    with pytest.raises(ModelError, match=words):
        qpipe.finetune(path, (IMAGES, np.arange(8) % 2), epochs=1)
