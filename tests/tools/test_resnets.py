"""Shapes and counts are those of the networks that have these names."""

import pytest
import resnets

import qpipe


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        # 0.27 and 0.85 million as He et al. 2015 have it (section 4.2, table 6), and 2,752 of the skips' convolutions.
        ("resnet20", 269_722 + 2_752, 40_551_040 + 262_144),
        ("resnet56", 853_018 + 2_752, 125_485_696 + 262_144),
        # The papers' ResNet-18 for CIFAR.
        ("resnet18", 11_173_962, 555_422_720),
    ],
)
def test_counts(name: str, parameters: int, macs: int) -> None:
    found = qpipe.inspect(resnets.build(resnets.CIFAR[name], image_size=32, classes=10))
    assert found.parameters == parameters
    assert found.macs == macs


def test_a_bottleneck_has_three_convolutions_of_which_the_last_widens() -> None:
    design = resnets.CIFAR["resnet29_bottleneck"]
    model = resnets.build(design, image_size=32, classes=10)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for stage, channels in enumerate(design.channels):
        last = f"stage{stage}.block{design.blocks_per_stage - 1}"
        assert shapes[f"{last}.first.weight"] == (channels, 4 * channels, 1, 1)
        assert shapes[f"{last}.second.weight"] == (channels, channels, 3, 3)
        assert shapes[f"{last}.third.weight"] == (4 * channels, channels, 1, 1)
    assert qpipe.inspect(model).ready
