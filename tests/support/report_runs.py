"""Runs as the report reads them, made by hand."""

from pathlib import Path
from typing import Any

import onnx_ir as ir

from qpipe.ir.files.metadata import AppliedPass
from qpipe.reporting.record import TrainingRecord, read_certificate, read_training
from qpipe.reporting.run import File, Run

LAYERS = ["/conv1/Conv", "/layer1/layer1.0/conv1/Conv", "/linear/Gemm"]
ACTIVATIONS = ["input", "/conv1/Conv", "/layer1/layer1.0/Slice", "/layer1/layer1.0/conv1/Conv"]
CERTIFICATE: dict[str, Any] = {
    "cpu": "portable",
    "weights": "int8",
    "pairs": "safe",
    "layers": [
        {
            "layer": "/conv1/Conv", "op": "Conv", "bits": "8/8", "channels": 16, "largest_accumulator": 1234567,
            "largest_shift": 16, "by_shift": 16, "by_float32": 0, "multiplier_bits": 5, "unsafe_pairs": 0,
            "exact_in_float32": False, "problems": [], "ok": True,
        }
    ],
    "gate": {"tensors": 4, "images": 64, "extreme_rows": 16, "layer_rounds": 6, "integers": 54321},
}  # fmt: skip


def epochs(count: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "number": n, "loss": 1 / n, "accuracy": 0.9 + n / 1000, "lr": 0.01 * 0.5**n, "batch_size": 256,
            "test_accuracy": 0.8 + n / 1000, **more,
        }
        for n in range(1, count + 1)
    ]  # fmt: skip


def diagnostics(bits: int = 4, **more: Any) -> dict[str, Any]:
    histogram = [0] * 200
    histogram[-1], histogram[150] = 30, 10
    noise = {"weight": [40.0, 6.0 * bits, 35.0], "activation": [45.0, 6.0 * bits, None, 40.0]}
    return {
        "layers": LAYERS,
        "weight_bits": [8, bits, 8],
        "activations": ACTIVATIONS,
        "activation_bits": [8, bits, bits, 8],
        "step_cosine": [0.4, bits / 20, 0.5],
        "step_updates": [301, 600],
        "neuron_cosine": {"mean": 0.994, "std": 0.01, "layers": [0.99, None, 0.995], "histogram": histogram},
        "sqnr_before": noise,
        "sqnr_after": {"weight": [41.0, 6.0 * bits - 1, 36.0], "activation": [45.0, 6.0 * bits + 2, None, 41.0]},
        **more,
    }


def low_bit(layers: int = 3, updates: tuple[int, ...] = (1, 50), **more: Any) -> dict[str, Any]:
    """Errors that fall with the exponent, and by groups; the last layer's errors are unknown."""
    formats = [{"element": [0, 3], "grouping": grouping} for grouping in ("none", "n", "c", "nc")]
    formats += [{"element": [e, 3], "grouping": grouping} for grouping in ("none", "nc") for e in (1, 2, 3)]
    known = [[[0.4 / (i + 1)] * layers for i in range(len(formats))] for _ in updates]
    unknown = [[[*row[:-1], None] for row in of_update] for of_update in known]
    shares = {split: [[0.75] * layers] * len(updates) for split in ("channel", "sample", "both")}
    return {
        "layers": [f"/layer{i}/Conv" for i in range(layers)],
        "updates": list(updates),
        "formats": formats,
        "relative_error": {
            "weight": known,
            "activation": [[[*row] for row in of_update] for of_update in known],
            "error": unknown,
        },
        "below_half": {"activation": shares, "error": shares},
        "maxima_layer": f"/layer{layers // 2}/Conv",
        "maxima": {
            "activation": {"channel": [1.0, 4.0], "sample": [4.0, 1.5, None]},
            "error": {"channel": [0.0, 0.0], "sample": [1e-9, 3e-9, 2e-9]},
        },
        **more,
    }


def float_run(name: str = "low", **more: Any) -> Run:
    """Of a float network that trained in low-bit arithmetic."""
    found = {"layers": LAYERS, "weight_bits": [None] * 3, "low_bit": low_bit(**more)}
    found["neuron_cosine"] = diagnostics()["neuron_cosine"]
    return make_run(
        name, training(diagnostics=found, settings={"arithmetic": "mls"}), kind="float", certificate=None,
        certificate_source="", weight_bits={}, activation_bits={},
    )  # fmt: skip


def training(**more: Any) -> dict[str, Any]:
    return {
        "epochs": epochs(),
        "accuracy_before": 0.5,
        "accuracy_after": 0.803,
        "settings": {"recipe": "faq-4bit"},
        "diagnostics": diagnostics(),
        **more,
    }


def make_run(name: str = "net", record: dict[str, Any] | None = None, **more: Any) -> Run:
    """A run with all that a file can tell; `record` is its training, `more` are fields of the run."""
    values: dict[str, Any] = {
        "name": name,
        "path": Path(f"{name}.qdq.onnx"),
        "kind": "QDQ, trainable",
        "model": ir.Model(ir.Graph([], [], nodes=[]), ir_version=10),
        "files": (File(f"{name}.qdq.onnx", 123456, "QDQ, trainable"),),
        "weight_bits": {4: 1, 8: 2},
        "activation_bits": {4: 2, 8: 2},
        "training": read_training(training() if record is None else record),
        "certificate": read_certificate(CERTIFICATE),
        "certificate_source": "stored in the file by its export",
        "certificate_problems": (),
        "provenance": (AppliedPass(name="calibrate-percentile", arguments={"batches": 5, "percentile": None}),),
        "input_sha256": "ab" * 32,
        "preprocess": {"mean": [0.3], "color": "GRAY"},
        "float_accuracy": 0.81,
    }
    return Run(**{**values, **more})


def bare_run(name: str = "bare") -> Run:
    """A run whose file tells nothing."""
    return make_run(
        name, training=TrainingRecord(), certificate=None, certificate_source="", provenance=(), input_sha256=None,
        preprocess=None, float_accuracy=None, weight_bits={}, activation_bits={},
    )  # fmt: skip
