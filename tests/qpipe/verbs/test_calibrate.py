import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import qpipe
from qpipe.errors import DataError, LoweringError, ModelError, RecipeError
from qpipe.formats.base import TrainableWeight
from qpipe.ir.files.metadata import get_json, get_object, get_provenance
from qpipe.ir.quantized.view import is_trainable, read_view
from qpipe.nodes import constant_array
from support.networks import float_model
from support.run import run
from support.zoo.digits import digits_model

IMAGES = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)


def weights_of(model: ir.Model) -> dict[str, TrainableWeight]:
    view = read_view(model)
    return {layer.name: layer.weight for layer in view.layers if is_trainable(layer)}


def bytes_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def test_the_file_runs_anywhere_and_carries_where_it_comes_from(stages: Path) -> None:
    path = stages / "net.qdq.onnx"
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": IMAGES})[0].shape == (40, 10)
    model = ir.load(path)
    preprocess, provenance = get_object(model, "preprocess"), get_json(model, "provenance")
    assert preprocess is not None
    assert (preprocess["mean"], preprocess["std"]) == ([0.3], [0.38])
    assert get_json(model, "input_sha256") == hashlib.sha256((stages / "net.onnx").read_bytes()).hexdigest()
    assert isinstance(provenance, list)
    restoration, calibration, fitting, filling, insertion = provenance[:5]
    assert restoration["pass"] == "restore-batch-norm"  # type: ignore[index,call-overload]
    assert calibration["pass"] == "calibrate-percentile"  # type: ignore[index,call-overload]
    arguments = calibration["arguments"]  # type: ignore[index,call-overload]
    assert arguments == {
        "activation_bits": 8, "skip_bits": None, "layers": "", "percentile": None, "batches": 2, "batch_size": 256,
        "seed": 0,
    }  # fmt: skip
    assert fitting["pass"] == "fit-input"  # type: ignore[index,call-overload]
    assert filling["pass"] == "fill-ranges"  # type: ignore[index,call-overload]
    assert insertion["pass"] == "insert-quantizers"  # type: ignore[index,call-overload]
    assert provenance[-1]["pass"] == "fit-weights"  # type: ignore[index,call-overload]


def test_one_seed_one_result_and_the_argument_stays() -> None:
    model = digits_model()
    before = model.SerializeToString(deterministic=True)
    first, second, third = (qpipe.calibrate(model, "digits", batches=1, batch_size=20, seed=s) for s in (0, 0, 1))
    assert bytes_of(first) == bytes_of(second)
    assert bytes_of(first) != bytes_of(third)
    assert model.SerializeToString(deterministic=True) == before


def test_widths_and_granularity() -> None:
    model = qpipe.calibrate(digits_model(), IMAGES, weight_bits=4, activation_bits=4, per_channel=False)
    weights = weights_of(model)
    assert {name: weight.format.bits for name, weight in weights.items()} == {
        "conv1": 8,
        "conv2": 4,
        "conv3": 4,
        "linear": 8,
    }
    assert all(len(set(weight.exponents.tolist())) == 1 for weight in weights.values())
    view = read_view(model)
    bits = {layer.name: layer.quantizer.grid.bits for layer in view.layers if layer.quantizer is not None}
    assert bits["conv1"] == 4
    assert bits["conv2"] == 8, "a branch before an Add"
    assert bits["conv3"] == 8, "the last layer's input"


def test_single_layers_have_widths_and_clips_of_their_own() -> None:
    layers = [
        {"match": "conv*", "weight_bits": 3},
        {"match": "conv2", "weight_bits": 6, "activation_bits": 5, "weight_clip": 3},
    ]
    model = qpipe.calibrate(digits_model(), IMAGES, weight_bits=4, activation_bits=4, layers=layers)
    weights = weights_of(model)
    assert {name: weight.format.bits for name, weight in weights.items()} == {
        "conv1": 3, "conv2": 6, "conv3": 3, "linear": 8,
    }  # fmt: skip
    assert (weights["conv1"].format.clip, weights["conv2"].format.clip) == (None, 3.0)
    bits = {layer.name: layer.quantizer.grid.bits for layer in read_view(model).layers if layer.quantizer is not None}
    assert (bits["conv1"], bits["conv2"]) == (4, 5)
    entries = get_json(model, "provenance")
    assert "conv*:weight_bits=3; conv2:weight_bits=6,activation_bits=5,weight_clip=3" in str(entries)


@pytest.mark.parametrize("rounding", ["ceil", "nearest", "least-error"])
def test_roundings_of_activations(rounding: Literal["ceil", "nearest", "least-error"]) -> None:
    """None is coarser than the paper's, and each is one of the three powers below it."""
    reference, model = (
        qpipe.calibrate(digits_model(), IMAGES, activation_bits=4, activation_rounding=each)
        for each in ("ceil", rounding)
    )
    pairs = zip(read_view(reference).layers, read_view(model).layers, strict=True)
    distances = {a.quantizer.grid.exponent - b.quantizer.grid.exponent for a, b in pairs if a.quantizer and b.quantizer}
    assert distances <= {"ceil": {0}, "nearest": {0, 1}, "least-error": {0, 1, 2, 3}}[rounding]
    assert (distances == {0}) == (rounding == "ceil")


def test_the_controls() -> None:
    """Random weights have no ranges that could be measured; the input's are data all the same."""
    first, second = (qpipe.calibrate(digits_model(), IMAGES, start="random", ranges="fixed", seed=s) for s in (0, 1))
    learned = qpipe.calibrate(digits_model(), IMAGES)
    values = [constant_array(weights_of(model)["conv2"].values) for model in (first, second, learned)]
    assert not np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    view = read_view(first)
    exponents = {layer.name: layer.quantizer.grid.exponent for layer in view.layers if layer.quantizer is not None}
    assert (exponents["conv1"], exponents["conv2"], exponents["add"]) == (4 - 8, 4 - 7, 4 - 8)
    assert view.inputs[0].grid == read_view(learned).inputs[0].grid
    passes = [entry["pass"] for entry in get_json(first, "provenance")]  # type: ignore[index,call-overload,union-attr]
    assert passes == ["restore-batch-norm", "randomize-weights", "fix-ranges", "calibrate-percentile",
                      "insert-quantizers", "rescale-channels"]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 9}, "weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8"),
        ({"activation_bits": 1}, "activation_bits: 1, expected 2, 3"),
        ({"skip_bits": 4}, "skip_bits: 4, expected activation_bits, 8, or more"),
        ({"start": "scratch"}, "start: 'scratch', expected 'pretrained' or 'random'"),
        ({"ranges": "fixed", "activation_rounding": "nearest"}, "activation_rounding: 'nearest', expected 'ceil'"),
        (
            {"quantizer": "lq", "weight_bits": 2, "activation_bits": 2, "ranges": "fixed"},
            "ranges: 'fixed', expected 'data'",
        ),
        (
            {"quantizer": "dorefa", "weight_bits": 2, "weight_clip": 4.0},
            "weight_clip: 4.0, expected none with",
        ),
        ({"quantizer": "lq", "weight_bits": 2, "weight_rounding": "ceil"}, "weight_rounding: ceil, expected none with"),
        (
            {"quantizer": "dorefa", "weight_bits": 2, "layers": [{"match": "conv2", "weight_clip": 3}]},
            r"Conv 'conv2': weight_clip 3, expected none with the quantizer 'dorefa'",
        ),
        ({"layers": [{"match": "conv1", "weight_bits": 0}]}, r"layers\[0\] weight_bits: 0, expected 2, 3"),
        ({"layers": [{"match": "conv1", "bits": 4}]}, r"layers\[0\] bits: unknown key, expected one of match, weight"),
        ({"layers": ["conv1"]}, r"layers\[0\]: 'conv1', expected a table"),
        ({"layers": [{"match": "convo", "weight_bits": 4}]}, "layer 'convo': matches no layer, .* 'conv1'"),
    ],
)
def test_choices_that_there_are_not(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        qpipe.calibrate(digits_model(), IMAGES, tmp_path / "q.onnx", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "dorefa"}, "'conv3'.*BatchNormalization"),
        ({"quantizer": "lq", "layers": [{"match": "conv2", "weight_clip": 3}]}, "'conv2': weight_clip 3"),
    ],
)
def test_what_cannot_be_so_is_refused_before_images_are_run(options: dict[str, Any], message: str) -> None:
    read: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for number in range(5):
            read.append(number)
            yield IMAGES

    with pytest.raises((LoweringError, RecipeError), match=message):
        qpipe.calibrate(digits_model(), batches(), weight_bits=2, restore_batch_norm=False, **options)
    # The first tells the images' shape.
    assert len(read) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what 40 % of all values cut off leaves of the network
def test_a_lower_percentile_gives_finer_grids() -> None:
    coarse, fine = (qpipe.calibrate(digits_model(), IMAGES, percentile=p) for p in (100, 60))
    pairs = zip(read_view(coarse).layers, read_view(fine).layers, strict=True)
    exponents = [
        (a.quantizer.grid.exponent, b.quantizer.grid.exponent) for a, b in pairs if a.quantizer and b.quantizer
    ]
    assert all(a >= b for a, b in exponents)
    assert any(a > b for a, b in exponents)


@pytest.mark.parametrize(
    "data",
    [IMAGES, [IMAGES[:20], IMAGES[20:]], iter([IMAGES[:20], IMAGES[20:]]), (IMAGES, np.zeros(40, np.int64))],
    ids=["array", "list", "stream", "labelled"],
)
def test_data_in_any_form_give_the_same_grids(data: object) -> None:
    reference = qpipe.calibrate(digits_model(), IMAGES, batch_size=40, batches=1)
    found = qpipe.calibrate(digits_model(), data, batch_size=40, batches=1)  # type: ignore[arg-type]
    layers = zip(read_view(reference).layers, read_view(found).layers, strict=True)
    assert all(
        a.quantizer == b.quantizer or a.quantizer.grid == b.quantizer.grid
        for a, b in layers
        if a.quantizer and b.quantizer
    )


def test_a_qdq_network_is_brought_to_another_width(stages: Path) -> None:
    again = qpipe.calibrate(stages / "net.qdq.onnx", "digits", weight_bits=4, batches=1)
    assert {weight.format.bits for weight in weights_of(again).values()} == {4, 8}
    assert get_json(again, "input_sha256") == hashlib.sha256((stages / "net.onnx").read_bytes()).hexdigest()
    assert get_object(again, "preprocess") == get_object(ir.load(stages / "net.qdq.onnx"), "preprocess")
    passes = [entry.name for entry in get_provenance(again)]
    assert passes.index("insert-quantizers") < passes.index("remove-quantizers")
    assert passes[-1] == "fit-weights"
    assert read_view(again).is_final is False
    # At the same width the same images give it the same grids, and what rounds to the nearest the same codes.
    plain: Any = {"batches": 2, "fit_weights": False, "activation_rounding": "ceil"}
    first = qpipe.calibrate(stages / "net.onnx", "digits", **plain)
    np.testing.assert_array_equal(run(qpipe.calibrate(first, "digits", **plain), IMAGES)[0], run(first, IMAGES)[0])


def test_a_qdq_network_whose_weights_are_no_float_network_s(stages: Path, tmp_path: Path) -> None:
    qpipe.calibrate(stages / "net.onnx", "digits", tmp_path / "q.onnx", quantizer="dorefa", weight_bits=2, batches=1)
    with pytest.raises(ModelError, match=r"^.*q.onnx: Conv '.*': its weights are on the scale of another quantizer"):
        qpipe.calibrate(tmp_path / "q.onnx", "digits")


def test_a_torch_module_is_taken_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    model = qpipe.calibrate(module, IMAGES, input_shape=(1, 8, 8))
    assert len(weights_of(model)) == 2


def test_what_has_no_integer_form_stays_float_between_integers() -> None:
    nodes = ["[short] s = LpNormalization<axis=1>(block)", "[hard] between = Hardmax(s)"]
    view = read_view(qpipe.calibrate(digits_model(between=nodes), IMAGES))
    assert [layer.name for layer in view.islands] == ["short", "hard"]
    assert [quantizer.source.name for quantizer in view.inputs] == ["x", "between"]


def test_data_of_another_type_than_the_input() -> None:
    rng = np.random.default_rng(0)
    nodes = ["e = Gather(table, x)", "f = Flatten(e)", "y = MatMul(f, w)"]
    floats = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("table", (9, 4)), ("w", (24, 3)))
    }
    model = float_model("tokens", [6], nodes, **floats)
    model.graph.inputs[0].dtype = ir.DataType.INT64
    with pytest.raises(DataError, match=r"values are float32, but the input 'x' takes int64 \[N, 6\]"):
        qpipe.calibrate(model, rng.random((2, 6), np.float32))


def test_inputs_that_are_not_finite() -> None:
    broken = IMAGES.copy()
    broken[3, 0, 1, 2] = np.nan
    with pytest.raises(DataError, match="sample 3 has the value nan"):
        qpipe.calibrate(digits_model(), broken)
    with pytest.raises(DataError, match="expected finite"):
        qpipe.calibrate(digits_model(), iter([broken]))


@pytest.mark.parametrize("preprocess", ["mean", [0.3]])
def test_preprocessing_is_a_mapping(preprocess: Any) -> None:
    with pytest.raises(DataError) as caught:
        qpipe.calibrate(digits_model(), "digits", preprocess=preprocess)
    expected = f"preprocess: {preprocess!r}, expected a mapping of settings, such as {{'mean': (0.5,)}}"
    assert str(caught.value) == expected
