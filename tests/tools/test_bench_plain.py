"""The two files that are compared differ by the skip alone; the residual one comes first and is what ratios are to."""

from pathlib import Path

import bench_plain
import onnx_ir as ir

import qpipe
from qpipe.ir.files.save import save_model
from support.zoo.residual import residual_network


def test_both_exports_and_their_rows(tmp_path: Path) -> None:
    save_model(residual_network(), tmp_path / "net.onnx")
    files = bench_plain.export_both(tmp_path / "net.onnx", 8, tmp_path)
    ops = [[node.op_type for node in ir.load(file).graph] for file in files]
    assert [one.count("QLinearAdd") for one in ops] == [1, 0]
    assert [one.count("QLinearConv") for one in ops] == [2, 2]
    report = qpipe.bench(files, batch_sizes=(1, 2), repeats=2)
    rows = bench_plain.rows_of(report)
    assert [(row["network"], row["batch"]) for row in rows] == [
        ("residual", 1), ("plain", 1), ("residual", 2), ("plain", 2)
    ]  # fmt: skip
    assert [row["activations KiB"] for row in rows] == [3, 2, 6, 4]
    assert [row["x activations"] for row in rows] == [1, 0.667, 1, 0.667]
    assert [row["by minima"] for row in rows[::2]] == [1, 1]
    assert rows[1]["peak at"] == rows[3]["peak at"]
