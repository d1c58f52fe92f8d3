"""The rows of `reproduce_faq.py`: what each network is calibrated and fine-tuned with, as the two verbs' arguments."""

from collections.abc import Sequence
from typing import Any

from experiments import ORIGINAL, ExperimentRow
from paper_batch_norm import round_batch_norms


def bits(weights: int, activations: int, **others: Any) -> dict[str, Any]:
    """Arguments of `calibrate`."""
    return {"weight_bits": weights, "activation_bits": activations, **others}


def paper(epochs: int, **others: Any) -> dict[str, Any]:
    """Section 4.9's 4-bit recipe, compressed to so many epochs, with what the paper's figures need."""
    return {"recipe": "faq-cifar-4bit", "epochs": epochs, "precision": "bf16", "diagnose": True, **others}


def stepwise(widths: Sequence[int]) -> str:
    """The name of the row that ends at the last of these widths."""
    names = [f"{width}/{width}" for width in widths]
    before = f" after {', '.join(names[:-1])}" if names[:-1] else ""
    return f"{names[-1]}, FAQ, 1 epoch of the 4-bit recipe{before}"


TEACHER = {"teacher": "float", "teacher_weight": 0.7, "temperature": 4.0}


def distilled(epochs: int, **others: Any) -> dict[str, Any]:
    """qpipe's own 4-bit recipe."""
    return {"recipe": "distilled-4bit", "gradient_clip": 0.0, "epochs": epochs, "precision": "bf16", **others}


# What may move low widths, each alone.
LEVERS: dict[str, dict[str, Any]] = {
    "scales that train": {"train_scales": 300.0},
    "oscillations dampened": {"dampen_oscillations": 0.1},
    "oscillations frozen": {"freeze_oscillations": 0.01},
    "statistics estimated anew": {"estimate_statistics": True},
}
# Bits step by step, each from the network that the widths before leave.
WIDTHS = (8, 4, 2)
SHORT = 2  # epochs of the rows that compare one change at a time

ROWS = (
    ExperimentRow("float", is_float=True),
    ExperimentRow("8/8, calibrated only", bits(8, 8)),
    ExperimentRow("8/8, calibrated only, BatchNormalization with l = -b/2", bits(8, 8), prepare=round_batch_norms),
    ExperimentRow("8/8, FAQ, 1 epoch", bits(8, 8), {"recipe": "faq-8bit"}, leads=True),
    ExperimentRow("8/8, FAQ, 10 epochs", bits(8, 8), {"recipe": "faq-cifar-8bit"}),
    ExperimentRow("4/4, calibrated only", bits(4, 4), leads=True),
    ExperimentRow("4/4, calibrated only, steps up to a power of two", bits(4, 4, weight_rounding="ceil")),
    ExperimentRow("4/4, calibrated only, per tensor", bits(4, 4, per_channel=False)),
    ExperimentRow("4/4, calibrated only, channels as they are", bits(4, 4, rescale_channels=False)),
    ExperimentRow("4/4, calibrated only, ranges nearest", bits(4, 4, activation_rounding="nearest")),
    ExperimentRow("4/4, calibrated only, ranges of least error", bits(4, 4, activation_rounding="least-error")),
    ExperimentRow("4/4, FAQ, 2 epochs", bits(4, 4), paper(SHORT)),
    ExperimentRow("4/4, FAQ, 2 epochs, channels as they are", bits(4, 4, rescale_channels=False), paper(SHORT)),
    ExperimentRow("4/4, FAQ, 2 epochs, distilled", bits(4, 4), paper(SHORT, **TEACHER)),
    ExperimentRow("4/4, FAQ, 2 epochs, steps up to a power of two", bits(4, 4, weight_rounding="ceil"), paper(SHORT)),
    ExperimentRow(
        "4/4, FAQ, 2 epochs, ranges of least error", bits(4, 4, activation_rounding="least-error"), paper(SHORT)
    ),
    ExperimentRow("4/4, FAQ, 2 epochs, rate 0.0015, exponential", bits(4, 4), paper(SHORT) | {"recipe": "faq-4bit"}),
    ExperimentRow("4/4, FAQ, 2 epochs, rate 0.01", bits(4, 4), paper(SHORT, lr=0.01)),
    ExperimentRow("4/4, FAQ, 2 epochs, rate 0.04", bits(4, 4), paper(SHORT, lr=0.04)),
    ExperimentRow("4/4, FAQ, 2 epochs, weight decay halved", bits(4, 4), paper(SHORT, weight_decay=2.5e-4)),
    ExperimentRow("4/4, FAQ, 2 epochs, weight decay doubled", bits(4, 4), paper(SHORT, weight_decay=1e-3)),
    ExperimentRow("4/4, FAQ, 2 epochs, growing batches", bits(4, 4), paper(SHORT, grow_at=(0.67, 1.82, 1.94))),
    ExperimentRow("4/4, FAQ, 2 epochs, not calibrated", bits(4, 4, ranges="fixed"), paper(SHORT)),
    ExperimentRow(
        "4/4, from scratch, 2 epochs, exponential",
        bits(4, 4, start="random", ranges="fixed"),
        paper(SHORT) | {"recipe": "faq-scratch-exp"},
    ),
    ExperimentRow(
        "4/4, from scratch, 2 epochs, step",
        bits(4, 4, start="random", ranges="fixed"),
        paper(SHORT) | {"recipe": "faq-scratch-step"},
    ),
    ExperimentRow(
        "4/4, FAQ, 2 epochs, branches at 4 bits",
        bits(4, 4, layers=[{"match": "layer*conv2*", "activation_bits": 4}]),
        paper(SHORT),
    ),
    ExperimentRow("W4A8, calibrated only", bits(4, 8)),
    ExperimentRow("W4A8, FAQ, 2 epochs", bits(4, 8), paper(SHORT)),
    ExperimentRow("3/3, FAQ, 2 epochs", bits(3, 3), paper(SHORT)),
    ExperimentRow("2/2, FAQ, 2 epochs", bits(2, 2), paper(SHORT)),
    *(
        ExperimentRow(f"{width}/{width}, FAQ, 2 epochs, {name}", bits(width, width), paper(SHORT, **lever))
        for name, lever in LEVERS.items()
        for width in (4, 2)
    ),
    *(
        ExperimentRow(
            stepwise(WIDTHS[: index + 1]),
            bits(width, width),
            paper(1),
            after=stepwise(WIDTHS[:index]) if index else None,
        )
        for index, width in enumerate(WIDTHS)
    ),
    ExperimentRow("2/2, FAQ, 3 epochs", bits(2, 2), paper(3)),
    ExperimentRow("8/8, the 4-bit recipe, 2 epochs", bits(8, 8), paper(SHORT)),
    ExperimentRow("4/4, distilled from a rate of 0.1, 6 epochs", bits(4, 4), distilled(6)),
    ExperimentRow("4/4, distilled from a rate of 0.1, 30 epochs", bits(4, 4), distilled(30), leads=True),
    ExperimentRow(
        "4/4, distilled from a rate of 0.1, 30 epochs, then 2 from 0.002",
        bits(4, 4),
        paper(SHORT, lr=0.002, teacher=ORIGINAL),
        after="4/4, distilled from a rate of 0.1, 30 epochs",
    ),
    ExperimentRow("4/4, FAQ, 10 epochs", bits(4, 4), paper(10)),
    ExperimentRow("4/4, FAQ, 30 epochs", bits(4, 4), paper(30)),
    ExperimentRow("4/4, FAQ, 110 epochs", bits(4, 4), paper(110)),
)
