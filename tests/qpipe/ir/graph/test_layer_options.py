"""Patterns of layers' names, and what several entries come to."""

import onnx_ir as ir
import pytest

from qpipe.errors import RecipeError
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.ir.quantized.plan import plan_quantization
from support.networks import Network

NAMES = ("/conv1/Conv", "/layer3/layer3.0/conv1/Conv", "/layer3/layer3.1/conv1/Conv", "/linear/Gemm")


def network() -> ir.Model:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8, name=NAMES[0]), 8), name="/Relu")
    x = net.op("MaxPool", x, kernel_shape=[2, 2], name="/layer3/pool/MaxPool")
    for name in NAMES[1:3]:
        x = net.op("Relu", net.conv(x, 8, 8, name=name), name=name.replace("conv1/Conv", "Relu"))
    x = net.op("Flatten", net.op("GlobalAveragePool", x, name="/Pool"), name="/Flatten")
    return net.model(net.op("Gemm", x, net.constant(net.floats(8, 5)), name=NAMES[3]))


def matched(*entries: LayerOptions) -> dict[str, LayerOptions]:
    plan = plan_quantization(network().graph)
    return {str(node.name): found for node, found in LayerTable(entries).of_layers(plan.layers, plan.last).items()}


@pytest.mark.parametrize(
    ("pattern", "hit"),
    [
        ("layer3.*", NAMES[1:3]),
        ("*layer3*", NAMES[1:3]),
        ("layer3/*", NAMES[1:3]),
        ("/layer3/layer3.1/*", NAMES[2:3]),
        ("layer3.[01]/conv1/Conv", NAMES[1:3]),
        ("layer3.?/Relu", NAMES[1:3]),
        ("conv1/*", NAMES[:3]),
        ("/conv1/*", NAMES[:1]),
        ("Gemm", NAMES[3:]),
        ("*", (*NAMES, "/Pool")),
    ],
)
def test_patterns(pattern: str, hit: tuple[str, ...]) -> None:
    assert set(matched(LayerOptions(pattern, weight_bits=4))) == set(hit)


def test_each_later_entry_has_the_last_word_on_what_it_gives() -> None:
    found = matched(
        LayerOptions("layer3.*", weight_bits=4, activation_bits=5),
        LayerOptions("layer3.1/*", weight_bits=3),
        LayerOptions("layer3.1/*", weight_clip=3.5),
    )
    first, second = (found[name] for name in NAMES[1:3])
    assert (first.weight_bits, first.activation_bits, first.weight_clip) == (4, 5, None)
    assert (second.weight_bits, second.activation_bits, second.weight_clip) == (3, 5, 3.5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (LayerOptions("layr3.*", weight_bits=4), "layer 'layr3.*': matches no layer, expected a pattern of names such"),
        (LayerOptions("linear/Gem", weight_bits=4), "names such as '/linear/Gemm'"),
        (LayerOptions("*MaxPool", activation_bits=4), "layer '*MaxPool': matches no layer"),
        (LayerOptions("*GlobalPool", weight_bits=4), "matches no layer"),
        (LayerOptions("/Pool", weight_bits=4), "layer '/Pool': no layer that it matches has weights, such as '/Pool'"),
        (LayerOptions("/Pool", weight_clip=4.0), "no layer that it matches has weights"),
        (
            LayerOptions("Gemm", activation_bits=4),
            "activation_bits, but '/linear/Gemm' is last and gives int32",
        ),
    ],
)
def test_an_entry_with_nothing_to_act_on(entry: LayerOptions, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        matched(entry)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_as_text() -> None:
    entries = (LayerOptions("layer3.*", weight_bits=4, activation_bits=5), LayerOptions("a", weight_clip=4.12))
    assert str(LayerTable(entries)) == "layer3.*:weight_bits=4,activation_bits=5; a:weight_clip=4.12"
