"""A model that is wrong: one line that names it, exit status 2, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qpipe
from support.networks import parse
from support.zoo.digits import digits_model

CALIBRATE = "calibrate {model} --data digits -o out.onnx"


def save(model: onnx.ModelProto) -> None:
    onnx.save_model(model, "bad.onnx")


def truncated() -> None:
    content = Path("net.onnx").read_bytes()
    Path("bad.onnx").write_bytes(content[: len(content) // 2])


def with_weight(change: Callable[[np.ndarray], Any]) -> Callable[[], None]:
    def make() -> None:
        model = digits_model()
        tensor = next(t for t in model.graph.initializer if t.name == "w2")
        array = numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(numpy_helper.from_array(array, "w2"))
        save(model)

    return make


def with_external_data(location: str) -> Callable[[], None]:
    def make() -> None:
        model = digits_model()
        tensor = next(t for t in model.graph.initializer if t.name == "w2")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        Path("bad.onnx").write_bytes(model.SerializeToString())

    return make


def two_inputs() -> None:
    model = digits_model()
    model.graph.input.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8]))
    model.graph.node[0].input[0] = "both"
    model.graph.node.insert(0, helper.make_node("Add", ["x", "z"], ["both"], name="join"))
    save(model)


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "truncated": (truncated, "bad.onnx: not an ONNX model, or truncated ("),
    "text": (lambda: Path("bad.onnx").write_text("hello"), "bad.onnx: not an ONNX model"),
    "empty": (lambda: Path("bad.onnx").write_bytes(b""), "bad.onnx: the file is empty"),
    "missing": (lambda: None, "bad.onnx: no such file"),
    "folder": (lambda: Path("bad.onnx").mkdir(), "bad.onnx: is a folder, expected an .onnx file"),
    "NaN weight": (
        with_weight(lambda w: w.__setitem__((0, 0, 0, 0), np.nan)),
        "bad.onnx: initializer 'w2' contains NaN, expected finite weights",
    ),
    "infinite weight": (
        with_weight(lambda w: w.__setitem__((0, 0, 0, 0), np.inf)),
        "bad.onnx: initializer 'w2' contains infinite values, expected finite weights",
    ),
    "data outside": (with_external_data("../../secret"), "bad.onnx: external data of 'w2' point to '../../secret'"),
    "data missing": (with_external_data("weights.bin"), "bad.onnx: external data of 'w2': no such file 'weights.bin'"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize(
    "words",
    [
        CALIBRATE,
        "inspect {model}",
        "validate net.onnx {model} --data digits",
        "bench {model}",
        "energy {model}",
        "finetune {model} --data digits -o out.onnx",
        "export {model} -o out.onnx",
    ],
    ids=lambda words: words.split()[0],
)
def test_models(case: str, words: str, refused: Callable[[str], str]) -> None:
    make, message = MODELS[case]
    make()
    assert refused(words.format(model="bad.onnx")).startswith(message)


def test_weights_without_integer_form_are_named_the_first_few_and_the_count(refused: Callable[[str], str]) -> None:
    # A matrix for each image of a batch that is open.
    nodes = " ".join(f"[n{i}] v{i} = MatMul(x, w)" for i in range(6)) + " y = Sum(v0, v1, v2, v3, v4, v5)"
    save(parse(f"(float[N,8,8] x) => (float[] y) {{ {nodes} }}", w=np.ones((3, 8, 8), np.float32)))
    assert refused(CALIBRATE.format(model="bad.onnx")) == (
        "bad.onnx: no layer of weights has an integer form: MatMul 'n0', MatMul 'n1', MatMul 'n2', MatMul 'n3' and 2 "
        "more; `qpipe inspect` says what to do with each"
    )


def test_islands_are_refused_where_an_export_is_integer_only(refused: Callable[[str], str]) -> None:
    save(digits_model(between=["[short] s = LpNormalization<axis=1>(block)", "[hard] between = Hardmax(s)"]))
    qpipe.calibrate("bad.onnx", "digits", "islands.qdq.onnx", batches=1)
    line = (
        "islands.qdq.onnx: float between integers (2): LpNormalization 'short', Hardmax 'hard'; expected none of an "
        "export that is integer only: `qpipe inspect` says what to do with each, --no-integer-only keeps them"
    )
    assert refused("export islands.qdq.onnx --format integer -o out.onnx") == line
    assert refused("export islands.qdq.onnx --integer-only -o out.onnx") == line


def test_two_inputs(refused: Callable[[str], str]) -> None:
    two_inputs()
    assert refused(CALIBRATE.format(model="bad.onnx")) == (
        "data 'digits': one array, the network's inputs are 'x', 'z': expected one by each name"
    )


def test_no_input(refused: Callable[[str], str]) -> None:
    save(parse("() => (float[4] y) { y = Relu(c) }", c=np.ones(4, np.float32)))
    assert refused(CALIBRATE.format(model="bad.onnx")) == (
        "bad.onnx: the model has no Conv, Gemm or MatMul with constant weights: nothing to quantize"
    )


def test_the_wrong_stage(refused: Callable[[str], str]) -> None:
    line = "net.onnx: not a quantized model, expected a QDQ file; run `qpipe calibrate` first"
    assert refused("export net.onnx -o out.onnx") == line
    rest = ", or train it as it is with --arithmetic float or mls"
    assert refused("finetune net.onnx --data digits -o out.onnx") == line + rest
    for words in ("finetune net.int8.onnx --data digits -o out.onnx", "export net.int8.onnx -o out.onnx"):
        expected = "net.int8.onnx: is an export (qoperator), expected the QDQ file that it was made from"
        assert refused(words) == expected
    expected = "net.int8.onnx: is quantized already (qoperator), expected a float network"
    assert refused("calibrate net.int8.onnx --data digits -o out.onnx") == expected
