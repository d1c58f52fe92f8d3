"""Published networks: what PyTorch's two exporters make of them, and pretrained files."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from passes.normalize import normalize
from passes.quantizing.restore_batch_norm import RestoreBatchNorm
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import PLAIN, get_json
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import constant_input
from support.quantize import quantized
from support.run import assert_exact, run
from support.zoo.published import Basic, Bottleneck, MobileNetV2, PreActivation, ResNet, exported
from support.zoo.residual import stripped

NETWORKS = {
    "resnet18": (lambda: ResNet(Basic, (2, 2, 2, 2)), 8, 3),
    "resnet34": (lambda: ResNet(Basic, (3, 4, 6, 3)), 16, 3),
    "resnet50": (lambda: ResNet(Bottleneck, (3, 4, 6, 3)), 16, 4),
    "preactivation": (lambda: ResNet(PreActivation, (2, 2)), 4, 1),
    "mobilenet_v2": (MobileNetV2, 10, 0),
}
RESNET_NAMES = [f"layer{number + 1}.{index}" for number, depth in enumerate((3, 4, 6, 3)) for index in range(depth)]


def images(model: ir.Model, count: int) -> np.ndarray:
    shape = (count, *(int(size) for size in model.graph.inputs[0].shape[1:]))
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def assert_plain(model: ir.Model) -> None:
    """No sum of two activations is left; an export adds the last layer's bias."""
    adds = [node for node in model.graph if node.op_type == "Add"]
    assert all(constant_input(node, 0) is not None or constant_input(node, 1) is not None for node in adds)
    assert not kinds(model).keys() & {"QLinearAdd", "Slice", "Concat"}


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks(name: str, dynamo: bool) -> None:
    make, count, projections = NETWORKS[name]
    model = exported(make(), dynamo=dynamo)
    blocks = find_blocks(model.graph)
    assert len(blocks) == count
    assert all(block.obstacle is None for block in blocks)
    if name in {"resnet34", "resnet50"}:
        assert [block.name for block in blocks] == RESNET_NAMES
    if name == "mobilenet_v2":
        assert [block.name for block in blocks][:3] == ["features.3.conv", "features.5.conv", "features.6.conv"]
    before, x = kinds(model), images(model, 4)
    stripped(model)
    assert_plain(model)
    assert before["Conv"] - kinds(model)["Conv"] == projections
    assert run(model, x)[0].shape == (4, 10)
    assert [entry["name"] for entry in get_json(model, PLAIN)] == [block.name for block in blocks]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preactivation", "mobilenet_v2"])
def test_exported_networks_quantized(name: str) -> None:
    """As in the float network, so in the QDQ one."""
    model = exported(NETWORKS[name][0](), dynamo=False)
    names = [block.name for block in find_blocks(model.graph)]
    quantized(model, images(model, 16))
    assert [block.name for block in find_blocks(model.graph)] == names
    stripped(model)
    # Each BatchNormalization is behind its Conv, but for what precedes all of them: after the first MaxPool.
    alone = sum(layer.op_type == "BatchNormalization" for layer in read_view(model).layers)
    assert alone == (1 if name == "preactivation" else 0)
    assert_exact(model, images(model, 8))
    assert_plain(qpipe.export(model))


def loaded(shared: Path, name: str) -> ir.Model:
    model = load_model(shared / "models" / f"{name}.onnx")
    normalize(model)
    return model


@pytest.mark.parametrize(
    ("name", "count"), [("resnet20_cifar10_bn", 9), ("resnet20_cifar10_folded", 9), ("tinyic_resnet8_cifar10", 3)]
)
def test_pretrained_networks(name: str, count: int, shared: Path) -> None:
    model = loaded(shared, name)
    blocks = find_blocks(model.graph)
    assert len(blocks) == count
    assert all(block.obstacle is None for block in blocks)
    if count == 9:
        assert [block.name for block in blocks] == [f"layer{n}.{index}" for n in (1, 2, 3) for index in range(3)]
        assert sum(bool(block.skip_nodes) for block in blocks) == 2
    stripped(model)
    assert_plain(model)
    assert kinds(model)["Conv"] == 2 * count + 1
    assert run(model, images(model, 4))[0].shape == (4, 10)


def test_names_outlive_a_restored_batch_norm(shared: Path) -> None:
    """The folded file has no names but its parameters', and calibration replaces its weights and its biases."""
    model = loaded(shared, "resnet20_cifar10_folded")
    names = [block.name for block in find_blocks(model.graph)]
    x = images(model, 16)
    assert RestoreBatchNorm(inputs=[x])(model).modified
    quantized(model, x)
    assert [block.name for block in find_blocks(model.graph)] == names


def test_a_stage_of_resnet20(shared: Path) -> None:
    model = loaded(shared, "resnet20_cifar10_bn")
    stripped(model, "layer3.*")
    assert [block.name for block in find_blocks(model.graph)] == [f"layer{n}.{i}" for n in (1, 2) for i in range(3)]
    assert (kinds(model)["Pad"], kinds(model)["Slice"]) == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20_cifar10_bn", "resnet20_cifar10_folded"])
def test_resnet20_in_four_bits(name: str, shared: Path) -> None:
    model = loaded(shared, name)
    quantized(model, images(model, 16), weight_bits=4, activation_bits=4)
    stripped(model)
    assert_exact(model, images(model, 8))
    plain = qpipe.export(model)
    assert kinds(plain)["QLinearConv"] == 19
    assert_plain(plain)
