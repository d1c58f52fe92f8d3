"""A float network that was trained on low-bit weights: what calibration and export make of them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

import qpipe
from passes.shipping.finalize import Finalize
from qpipe.arith.mls.quantize import MlsTensor, quantize
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import TRAINING, get_provenance, set_json
from qpipe.ir.quantized.view import Weighted, read_view
from qpipe.ops.weight_layout import to_rows
from qpipe.progress import reporting
from qpipe.settings import CalibrateSettings
from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.train.companions import low_bit
from qpipe.train.companions.low_bit import LowBit
from qpipe.train.executor import Executor
from qpipe.verbs.trained_weights import HeldWeights, why_rounded_anew
from support.zoo.digits import PREPROCESS

KEPT: dict[str, Any] = {"group": "n", "group_format": (8, 0), "tensor_scale": "power-of-two", "rounding": "nearest"}
CHANNELS = {"conv2": 8, "conv3": 16}
"""Of the layers between the first and the last."""


def trained(stages: Path, element: tuple[int, int], **values: Any) -> ir.Model:
    return qpipe.finetune(
        stages / "net.onnx", "digits", arithmetic="mls", element=element, lr=0.05, epochs=1, milestones=(0.5,),
        batch_size=64, flip=False, evaluate=False, preprocess=PREPROCESS, **{**KEPT, **values},
    )  # fmt: skip


def multiplied_by(
    monkeypatch: pytest.MonkeyPatch, network: ir.Model, element: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The weights of the low-bit layers that a forward of training multiplies by, as rows `[C, K]` of codes.

    In steps of the format's grid: a group's scale is the power of two above its largest weight.
    """
    executor = Executor(network.clone(), batch_norm="batch").train()
    LowBit([executor], ArithmeticSettings(arithmetic="mls", element=element, **KEPT), seed=0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(x: torch.Tensor, *arguments: Any, **options: Any) -> MlsTensor:
        found = quantize(x, *arguments, **options)
        seen.append((x.detach(), found.values * found.scale))
        return found

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(low_bit, "quantize", spy)
        executor(torch.randn(4, 1, 8, 8))
    nodes = {node.name: node for node in network.graph}
    codes: dict[str, np.ndarray] = {}
    # Activation and weight, layer by layer.
    for name, pair in zip(CHANNELS, seen[1::2], strict=True):
        floats, rounded = (np.array(to_rows(nodes[name], tensor.numpy()), np.float64) for tensor in pair)
        step = np.exp2(np.ceil(np.log2(np.abs(floats).max(axis=1, keepdims=True))) - sum(element))
        codes[name] = rounded / step
    return codes


def shipped(network: ir.Model) -> ir.Model:
    final = network.clone()
    Finalize()(final)
    return final


def codes_of(network: ir.Model) -> dict[str, np.ndarray]:
    """Of a network whose weights are integers: rows, by layer."""
    layers = [layer for layer in read_view(network).layers if isinstance(layer, Weighted)]
    return {layer.name: to_rows(layer.node, layer.weight.codes).astype(np.int64) for layer in layers}


# What one epoch makes of the network differs from CPU to CPU; it is the integers that are compared.
@pytest.mark.filterwarnings("ignore:.*signal to noise:UserWarning")
@pytest.mark.parametrize(
    ("element", "options"),
    [
        ((0, 7), {"cpu": "vnni"}),
        ((0, 5), {"weight_bits": 6}),
        ((0, 3), {"weight_bits": 4}),
        ((1, 2), {"weight_bits": 4}),
    ],
)
def test_the_export_has_the_integers_that_training_multiplied_by(
    stages: Path, monkeypatch: pytest.MonkeyPatch, element: tuple[int, int], options: dict[str, Any]
) -> None:
    """The very codes, up to the sign of a negative multiplier, which they take over."""
    network, bits = trained(stages, element), sum(element)
    expected = multiplied_by(monkeypatch, network, element)
    quantized = qpipe.calibrate(network, "digits", batches=1, **options)
    exported = qpipe.export(quantized, format="qdq", cpu=options.get("cpu", "portable"))
    for model in (shipped(quantized), exported):
        found = codes_of(load_model(model))
        for name, codes in expected.items():
            assert np.array_equal(codes, np.round(codes))
            assert 2 ** (bits - 1) <= np.abs(codes).max(axis=1).min()
            assert np.abs(codes).max() < 2**bits
            sign = np.sign((found[name] * codes).sum(axis=1, keepdims=True))
            assert np.array_equal(found[name], sign * codes)


def test_more_bits_hold_the_same_numbers(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their codes are those integers times a power of two."""
    network = trained(stages, (0, 3))
    with reporting():
        quantized = qpipe.calibrate(network, "digits", batches=1)
    assert "weights keep the integers of low-bit training: 24 channels of 24\n" in capsys.readouterr().err
    assert [entry.name for entry in get_provenance(quantized)].count("hold-low-bit-weights") == 1


def test_what_exactness_demands_goes_before(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On CPUs without VNNI a pair of large codes saturates; how many channels keep theirs is said."""
    network = trained(stages, (0, 7))
    with reporting():
        quantized = qpipe.calibrate(network, "digits", batches=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "low-bit training" in line]
    assert line.startswith("weights keep the integers of low-bit training: ")
    kept, total = map(int, re.findall(r"\d+", line))
    assert 0 < kept < total == 24
    assert line.endswith("; the others are rounded anew, as exactness demands (--cpu vnni demands less)")
    assert qpipe.validate([quantized, qpipe.export(quantized)], "digits").rows[0].integers_equal


@pytest.mark.parametrize(("cpu", "why"), [("portable", "exactness demands (--cpu vnni"), ("vnni", "their multipliers")])
def test_what_else_goes_before_is_named_where_pairs_may_be_large(
    stages: Path, cpu: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized = load_model(stages / "net.qdq.onnx")
    others = {name: codes + 0.3 for name, codes in codes_of(shipped(quantized)).items() if name in CHANNELS}
    with reporting():
        HeldWeights(others).tell(quantized, cpu)
    assert f"0 channels of 24; the others are rounded anew, as {why}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "options", "why"),
    [
        ({"element_weight": (2, 1)}, {}, "elements of 2 exponent bits are no integers"),
        ({"group_weight": "nc"}, {}, "groups 'nc' are not output channels"),
        ({"group_format": (8, 1)}, {}, "scales of groups are no powers of two"),
        ({"tensor_scale": "float"}, {}, "the scale of a tensor is no power of two"),
        ({"rounding": "stochastic"}, {}, "rounding was stochastic"),
        ({}, {"weight_bits": 4}, "they have 8 bits, and weight_bits is 4"),
        ({"element": (0, 8)}, {}, "they have 9 bits, and weight_bits is 8"),
        ({}, {"quantizer": "dorefa", "weight_bits": 4}, "the quantizer 'dorefa' has other levels"),
        ({}, {"weight_clip": 3.0}, "a weight_clip was given"),
        ({}, {"weight_rounding": "nearest"}, "a weight_rounding was given"),
        ({}, {"per_channel": False}, "channels are to share a scale"),
        ({}, {"start": "random"}, "they are forgotten"),
        ({"element_activation": (2, 4), "group_error": "nc", "element_error": (5, 2)}, {}, None),
    ],
)
def test_any_other_setting_is_rounded_anew(values: dict[str, Any], options: dict[str, Any], why: str | None) -> None:
    settings = ArithmeticSettings(arithmetic="mls", **{"element": (0, 7), **KEPT, **values})
    assert why_rounded_anew(settings, CalibrateSettings(**options)) == why


def test_it_is_said(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = trained(stages, (2, 1), group="nc")
    with reporting():
        quantized = qpipe.calibrate(network, "digits", batches=1)
    line = "trained on low-bit weights ⟨2, 1⟩, nc ⟨8, 0⟩, rounded anew: elements of 2 exponent bits are no integers\n"
    assert line in capsys.readouterr().err
    assert "hold-low-bit-weights" not in [entry.name for entry in get_provenance(quantized)]


def test_other_networks_are_calibrated_as_ever(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = qpipe.finetune(
        stages / "net.onnx", "digits", arithmetic="float", epochs=1, milestones=(0.5,), lr=1e-3, flip=False,
        evaluate=False,
    )  # fmt: skip
    under_faq = qpipe.finetune(stages / "net.qdq.onnx", "digits", arithmetic="mls", flip=False, evaluate=False)
    with reporting():
        qpipe.calibrate(network, "digits", batches=1)
        qpipe.calibrate(under_faq, "digits", batches=1)
    assert "low-bit" not in capsys.readouterr().err


def test_a_damaged_record_is_one_line(stages: Path) -> None:
    network = load_model(stages / "net.onnx")
    set_json(network, TRAINING, {"settings": {"arithmetic": "mls", "element": [9, 9]}})
    with pytest.raises(ModelError, match=r"metadata 'qpipe.training': element: .*⟨9, 9⟩, expected 0 to 5 bits"):
        qpipe.calibrate(network, "digits", batches=1)
