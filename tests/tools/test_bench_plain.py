"""The files that are compared differ by the skip alone; the residual one comes first and is what ratios are to."""

from pathlib import Path

import bench_plain
import onnx_ir as ir

import qpipe
from qpipe.ir.files.save import save_model
from support.zoo.residual import residual_network


def test_the_exports_and_their_rows(tmp_path: Path) -> None:
    save_model(residual_network(), tmp_path / "net.onnx")
    files = bench_plain.export_all(tmp_path / "net.onnx", 8, tmp_path)
    ops = [[node.op_type for node in ir.load(file).graph] for file in files]
    assert [one.count("QLinearAdd") for one in ops] == [1, 0, 0]
    assert [one.count("QLinearConv") for one in ops] == [2, 2, 2]
    report = qpipe.bench(files, batch_sizes=(1, 2), repeats=2)
    rows = bench_plain.rows_of(report)
    assert [(row["network"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 2) for name in ("residual", "plain", "exact")
    ]
    # A block of one layer carries nothing.
    assert [row["x MACs"] for row in rows] == [1] * 6
    assert [row["activations KiB"] for row in rows] == [3, 2, 2, 6, 4, 4]
    assert [row["x activations"] for row in rows] == [1, 0.667, 0.667] * 2
    assert [row["by minima"] for row in rows[::3]] == [1, 1]
    assert rows[1]["peak at"] == rows[4]["peak at"]
