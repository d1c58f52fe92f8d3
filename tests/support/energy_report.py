"""What `qpipe.energy` reports, short enough to be read."""

from qpipe.ir.cost.energy import OperationRow, PartRow, RunRow, Saving
from qpipe.verbs.energy import EnergyReport

ENERGY = EnergyReport(
    kind="float",
    batch_size=8,
    parameters=10,
    titles={"horowitz": "45 nm", "own.toml": ""},
    units={"horowitz": "pJ", "own.toml": "nJ"},
    runs=(
        RunRow("float step", "training", 8, 4000, {"horowitz": 16000.0, "own.toml": 4.0}),
        RunRow("low-bit step", "training", 8, 4000, {"horowitz": 2000.0, "own.toml": 1.0}),
        RunRow("float inference", "inference", 1, 500, {"horowitz": 99.5, "own.toml": None}),
    ),
    parts=(
        PartRow("float step", "Conv", "forward", 3, 4000, False, {"add float32": 4000}, {"horowitz": 1.5e4}),
        PartRow("low-bit step", "Conv", "forward", 3, 4000, True, {"add int19": 4000}, {"horowitz": 500.0}),
        PartRow("float inference", "Gemm", "forward", 3, 500, False, {"add float32": 500}, {"horowitz": 99.5}),
    ),
    operations=(
        OperationRow(
            "add int19",
            {"float step": 0, "low-bit step": 4321, "float inference": 0},
            {"horowitz": 0.0594, "own.toml": 2.5},
        ),
    ),
    savings=(
        Saving("whole step, 8 images", "training", {"horowitz": 8.0, "own.toml": 4.25}),
        Saving("int8 inference", "inference", {"horowitz": 7.0, "own.toml": None}),
    ),
    notes=("not counted: 1 Erf",),
)
