"""`calibrate` says by name what its network lost beside the float one, and leaves the figures in the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import qpipe
from qpipe.calibration.findings import least_decibels
from qpipe.cli.main import main
from qpipe.ir.files.metadata import COMPARISON, get_object
from support.zoo.digits import digits_model

IMAGES = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
Constants = dict[str, np.ndarray]


def changed(change: Callable[[Constants], Any]) -> onnx.ModelProto:
    """The digits network with other constants, which `change` finds by name."""
    model = digits_model()
    constants = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(constants)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return model


def said(model: onnx.ModelProto, **options: Any) -> tuple[ir.Model, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = qpipe.calibrate(model, IMAGES, **options)
    return network, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("options", [{}, {"restore_batch_norm": False}, {"weight_bits": 4, "activation_bits": 4}])
def test_nothing_is_said_of_a_healthy_network(options: dict[str, Any]) -> None:
    network, lines = said(digits_model(), **options)
    assert lines == []
    compared = get_object(network, COMPARISON)
    assert compared is not None
    assert compared["images"] == 32
    assert compared["problems"] == []


def test_a_channel_larger_than_the_others() -> None:
    def enlarge(constants: Constants) -> None:
        constants["n1_gamma"][3] *= 1e5

    _, lines = said(changed(enlarge))
    [line] = [line for line in lines if "fewer than 2 levels" in line]
    assert line.startswith("Conv 'conv1': 7 of 8 channels (0, 1, 2, 4, ...) of 'r1' keep")
    assert "beside channel 3" in line


def test_one_damaged_weight() -> None:
    def damage(constants: Constants) -> None:
        constants["w1"][0, 0, 1, 1] = 1e12

    _, lines = said(changed(damage))
    assert any(line.startswith("Conv 'conv1': one weight of channel 0 is ") for line in lines)


def test_weights_too_small_for_the_scale_of_all() -> None:
    """The last layer has one scale: a class a million times the others leaves them no level."""

    def enlarge(constants: Constants) -> None:
        constants["w4"][:, 6] *= 1e6

    _, lines = said(changed(enlarge))
    assert any(
        line.startswith("Gemm 'linear': all weights of 9 of 10 channels (0, 1, 2, 3, ...) are 0") for line in lines
    )


def test_a_dead_channel_is_nothing_lost() -> None:
    """Its products are less than a step of the output, as in one of 16 channels of some layers of ResNet-20."""

    def fade(constants: Constants) -> None:
        constants["n1_gamma"][3] = 1e-9

    network, lines = said(changed(fade))
    assert lines == []
    assert get_object(network, COMPARISON) is not None


def test_a_network_that_is_another_one() -> None:
    """The worst comes first; behind five lines, how many more there are."""
    network, lines = said(digits_model(), percentile=60, fit_weights=False)
    assert lines[0].startswith("the first choice is the float network's on ")
    assert lines[1].endswith(
        "(the first in the network: look at its layer; --layer NAME:stays_float=true keeps one in float)"
    )
    compared = get_object(network, COMPARISON)
    assert compared is not None
    problems = compared["problems"]
    assert isinstance(problems, list)
    assert lines[:5] == problems[:5]
    assert lines[5:] == [f"and {len(problems) - 5} more of the kind: `qpipe inspect` lists them"] * (len(problems) > 5)


def test_a_table_with_few_levels_does_not_make_a_network_narrow() -> None:
    """Before the Tanh one channel is 1e4 times the others, and the 8-bit range leaves them no level.

    It ends three octaves below what it reaches: of 1e3 times the others have one.
    """
    rng = np.random.default_rng(2)
    between = ["[conv5] c5 = Conv(block, w5)", "[tanh] between = Tanh(c5)"]
    w5 = rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
    w5[2] *= 1e4
    _, lines = said(digits_model(between=between, constants={"w5": w5}))
    assert any(line.startswith("Conv 'conv5': 7 of 8 channels (0, 1, 3, 4, ...) of 'between'") for line in lines)


@pytest.mark.parametrize("options", [{"weight_bits": 2, "activation_bits": 2}, {"quantizer": "lq", "weight_bits": 2}])
def test_what_is_to_be_trained_first_is_not_judged(options: dict[str, Any]) -> None:
    network, lines = said(digits_model(), percentile=60, **options)
    assert lines == []
    assert get_object(network, COMPARISON) is not None


def test_the_bounds_are_below_what_healthy_networks_have() -> None:
    """ResNet-20, ResNet-8 and DS-CNN have at least 16 dB at 8 bits and 5 at 4."""
    assert least_decibels(8) == 8
    assert least_decibels(4) == 0


def test_a_stream_is_read_once() -> None:
    network = qpipe.calibrate(digits_model(), iter([IMAGES[:40], IMAGES[40:]]))
    compared = get_object(network, COMPARISON)
    assert compared is not None
    assert compared["images"] == 32


def test_inspect_and_the_command_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, output = tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path / "net.qdq.onnx"
    onnx.save(digits_model(), model)
    np.savez(data, x=IMAGES.transpose(0, 2, 3, 1), labels=np.arange(64) % 10)
    arguments = ["calibrate", str(model), "--data", str(data), "--percentile", "60", "--no-fit-weights"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*arguments, "-o", str(output)]) == 0
    assert "warning: the first choice is the float network's on" in capsys.readouterr().err
    compared = qpipe.inspect(output).comparison
    assert compared is not None
    assert compared.tensors[0].layer == "the input"
    assert main(["inspect", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "beside the float network: 32 images, first choice equal on" in shown
    assert "found: the first choice is the float network's on" in shown
