"""The MLS paper's Table 1 and its estimate of energy beside what `qpipe energy` counts, for its two networks.

Its count of "ResNet-18" is that of a network whose first convolution is 3x3 without stride, and no pool behind it, at
224x224: 15 times the usual one. Both are counted here.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, Table 1 and Appendix E.
"""

from typing import Annotated, Any

import resnets
import typer
from results import RESULTS, Results, Row, rounded
from torch_resnet20 import ResNet20

import qpipe
from qpipe.verbs.energy import EnergyReport

PAPER_STEM, USUAL, RESNET20 = "ResNet-18, 3x3 stem, no pool", "ResNet-18", "ResNet-20"
NETWORKS: dict[str, Any] = {
    PAPER_STEM: lambda: resnets.build(resnets.CIFAR["resnet18"], image_size=224, classes=1000),
    USUAL: lambda: resnets.build(resnets.RESNET18, image_size=224, classes=1000),
    RESNET20: ResNet20,
}
INPUTS = {RESNET20: (3, 32, 32)}
TABLE_1: dict[str, tuple[float, float]] = {
    "Conv, forward": (2.72e10, 4.05e7),
    "Conv, backward": (5.44e10, 8.11e7),
    "BN, forward": (3.01e7, 1.88e5),
    "BN, backward": (3.01e7, 1.88e5),
    "EW-Add, forward": (1.49e7, 7.37e4),
    "EW-Add, backward": (1.20e7, 7.37e4),
    "weight update": (1.12e7, 2.68e5),
}
"""The paper's, of its ResNet-18 and of ResNet-20, for one image."""
ELEMENTS = ((2, 4), (2, 1), (0, 4), (0, 2))


def measure(network: str, batch_size: int, **options: Any) -> EnergyReport:
    return qpipe.energy(NETWORKS[network](), batch_size=batch_size, input_shape=INPUTS.get(network), **options)


def table_1(network: str, report: EnergyReport) -> list[Row]:
    """A row for each of the paper's: its number, ours where we count as it does, and ours as a step does it.

    The paper counts a multiplication with an addition once, results of BatchNormalization and Add once each, and the
    weights of convolutions. A step has no gradient of the image, sums and squares for statistics, gradients of a skip
    that are added where it begins, and momentum and weight decay for every parameter.
    """
    parts = [part for part in report.parts if part.run == "float step"]

    def find(name: str, stage: str) -> list[Any]:
        return [part for part in parts if part.name.split(",")[0] == name and part.stage == stage]

    macs = {
        stage: sum(p.macs for p in find("Conv", stage)) for stage in ("forward", "input gradient", "weight gradient")
    }
    results = {name: sum(p.elements for p in find(name, "forward")) for name in ("BatchNormalization", "Add")}
    weights = sum(part.elements for part in find("Conv", "weight gradient"))
    (sums,) = find("sums of gradients", "backward")
    (update,) = find("SGD", "update")
    norm = {stage: _operations(find("BatchNormalization", stage)) for stage in ("forward", "backward")}
    ours: dict[str, tuple[int, int]] = {
        "Conv, forward": (macs["forward"], macs["forward"]),
        "Conv, backward": (2 * macs["forward"], macs["input gradient"] + macs["weight gradient"]),
        "BN, forward": (results["BatchNormalization"], norm["forward"]),
        "BN, backward": (results["BatchNormalization"], norm["backward"]),
        "EW-Add, forward": (results["Add"], results["Add"]),
        "EW-Add, backward": (results["Add"], sums.elements),
        "weight update": (weights, _operations([update])),
    }
    column = {PAPER_STEM: 0, RESNET20: 1}.get(network)
    return [
        {
            "network": network,
            "operation": name,
            "paper": None if column is None else TABLE_1[name][column],
            "counted as the paper does": alike,
            "over the paper's": None if column is None else rounded(alike / TABLE_1[name][column]),
            "operations of a step": step,
        }
        for name, (alike, step) in ours.items()
    ]


def savings(network: str, batch_size: int) -> list[Row]:
    """How many times less energy than in float, by each price list."""
    return [
        {"network": network, "what": one.what, "of": one.use}
        | {name: None if ratio is None else rounded(ratio, 4) for name, ratio in one.ratios.items()}
        for one in measure(network, batch_size).savings
    ]


def formats(network: str, batch_size: int) -> list[Row]:
    """A step's savings by the elements' format, and by what has a scale of its own."""
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("⟨{}, {}⟩, nc, ⟨8, 1⟩".format(*element), {"element": element}) for element in ELEMENTS),
        ("⟨2, 4⟩, nc, ⟨8, 0⟩", {"group_format": (8, 0)}),
        *((f"⟨2, 4⟩, {group}", {"group": group}) for group in ("n", "c", "none")),
        ("⟨2, 4⟩, nc, ⟨8, 1⟩, ends too", {"low_bit_ends": True}),
    ]
    rows: list[Row] = []
    for name, options in asked:
        found = {one.what.split(",")[0]: one.ratios for one in measure(network, batch_size, **options).savings}
        for what in ("low-bit products", "whole step"):
            ratios = {name: rounded(ratio, 4) for name, ratio in found[what].items() if ratio is not None}
            rows.append({"format": name, "what": what, **ratios})
    return rows


def _operations(parts: list[Any]) -> int:
    """Of all kinds together."""
    return sum(sum(part.operations.values()) for part in parts)


def main(
    batch_size: Annotated[int, typer.Option(help="images of the steps whose energy is told")] = 128,
) -> None:
    """Count, print and keep the tables.

    Example: python tools/energy_table.py
    """
    results = Results("energy")
    results.add("Table 1, one image", [row for name in NETWORKS for row in table_1(name, measure(name, 1))])
    results.add("times less energy than in float", [row for name in NETWORKS for row in savings(name, batch_size)])
    results.add(f"by the format, {RESNET20}", formats(RESNET20, batch_size))
    results.save(RESULTS)


if __name__ == "__main__":
    typer.run(main)
