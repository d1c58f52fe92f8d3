"""The whole sequence, on the real networks and on a small one."""

import os
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import passes
from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.nodes import constant_input
from support.networks import build, integers

MODELS = [
    "mnist8_cntk",
    "resnet20_cifar10_bn",
    "resnet20_cifar10_folded",
    "tinyic_resnet8_cifar10",
    "tinykws_dscnn",
    "ultraface_slim320",
]
# Relative to the largest output. Normalization leaves every product as it is and moves only the order of a few
# additions (a bias, the mean over space): some roundings of 2**-24 in a network of up to 50 layers.
REORDERED_SUMS = 5e-6


def run(path, **inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize("name", MODELS)
def test_real_networks_compute_the_same(shared, tmp_path, name):
    original = shared / "models" / f"{name}.onnx"
    model = load_model(original)
    assert normalize(model).modified
    save_model(model, tmp_path / "normalized.onnx")

    (value,) = model.graph.inputs
    shape = [dim if isinstance(dim, int) else 3 for dim in value.shape]
    # Pixels as the networks expect them are about this large; the ones that want 0..255 see small ones.
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before, after = run(original, **{value.name: x}), run(tmp_path / "normalized.onnx", **{value.name: x})
    assert len(before) == len(after) > 0
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=REORDERED_SUMS * np.abs(expected).max())

    assert all(node.name for node in model.graph)
    assert "Constant" not in {node.op_type for node in model.graph}
    assert all(output.shape is not None for node in model.graph for output in node.outputs)
    assert not normalize(model).modified


def test_resnet20_shortcuts_have_constant_slices_and_pads_and_its_batch_norm_stays(shared):
    model = load_model(shared / "models" / "resnet20_cifar10_bn.onnx")
    normalize(model)
    ops = Counter(node.op_type for node in model.graph)
    assert ops["BatchNormalization"] == 19
    assert ops["Slice"] == 4
    assert ops["Pad"] == 2
    for node in model.graph:
        if node.op_type in ("Slice", "Pad"):
            assert all(constant_input(node, index) is not None for index in range(1, len(node.inputs)))
    assert not {"Shape", "Gather", "Concat", "ConstantOfShape", "Cast", "Reshape", "Transpose"} & set(ops)


def test_ultraface_shape_arithmetic_folds_away(shared):
    model = load_model(shared / "models" / "ultraface_slim320.onnx")
    normalize(model)
    ops = Counter(node.op_type for node in model.graph)
    assert not {"Shape", "Gather", "Unsqueeze", "Flatten"} & set(ops)
    for node in model.graph:
        if node.op_type in ("Reshape", "Slice"):
            assert all(constant_input(node, index) is not None for index in range(1, len(node.inputs)))


def test_dynamic_batch_stays_dynamic(shared):
    for name in ("resnet20_cifar10_bn", "tinyic_resnet8_cifar10", "tinykws_dscnn"):
        model = load_model(shared / "models" / f"{name}.onnx")
        normalize(model)
        assert not any(
            isinstance(output.shape[0], int) for node in model.graph for output in node.outputs if output.shape
        )


def test_errors_come_out_as_they_are():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { y = Dropout(x, ratio, on) }", ratio=np.float32(0.5), on=np.array(True)
    )
    with pytest.raises(ModelError, match="training mode"):
        normalize(model)


SAVE = """
import sys
from passes.normalize import normalize
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
model = load_model(sys.argv[1])
normalize(model)
save_model(model, sys.argv[2])
"""


def test_equal_bytes_whatever_the_hash_seed(tmp_path):
    """Sets of names come in another order with every seed; none may reach the file."""
    model = build(
        """(float[N,3,8,8] x) => (float[N,4] y) {
            a = Identity(x) k = Constant <value_floats = [1.0]> () b = Mul(a, k)
            z = Conv <auto_pad = "SAME_UPPER"> (b, w) r = Relu(z) y = ReduceMean <keepdims = 0> (r, axes) }""",
        w=integers(4, 3, 3, 3),
        axes=np.array([2, 3]),
    )
    save_model(model, tmp_path / "in.onnx")
    contents = set()
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.onnx"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", SAVE, str(tmp_path / "in.onnx"), str(output)]
        subprocess.run(command, env=environment, check=True)
        contents.add(output.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("file", sorted(Path(passes.__file__).parent.glob("[!_]*.py")), ids=lambda file: file.stem)
def test_a_pass_is_called_as_its_file(file):
    module = import_module(f"passes.{file.stem}")
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    names = [kind.name for kind in own if issubclass(kind, ir.passes.InPlacePass)]
    assert names == ([] if file.stem == "normalize" else [file.stem.replace("_", "-")])
