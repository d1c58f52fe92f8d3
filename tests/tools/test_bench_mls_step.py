"""The steps that `bench_mls_step.py` times: one a row, of one network, and where a step's time goes."""

import itertools
from pathlib import Path

import torch
from bench_mls_step import PROFILED, ROWS, contestant, profile, rows_of

from qpipe.ir.files.save import save_model
from support.zoo.residual import made, post_activation


def test_each_row_is_a_step_of_the_same_network(tmp_path: Path) -> None:
    _, model = made(post_activation)
    save_model(model, tmp_path / "net.onnx")
    inputs, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    rows = [contestant(name, tmp_path / "net.onnx", inputs, labels) for name in ROWS]
    for row in rows:
        row.step()
    table = rows_of(rows, [[2.0, 3.0, 4.0], *[[6.0, 7.5, 9.0]] * (len(rows) - 1)], 4, "cpu")
    assert [line["step"] for line in table] == list(ROWS)
    assert [line["x the float step's time"] for line in table] == [1, *[2.5] * (len(rows) - 1)]

    ticks = itertools.count()
    profiled = next(row for row in rows if row.name == PROFILED)
    parts = {line["part"]: line["median ms"] for line in profile(profiled, 2, lambda: float(next(ticks)))}
    # Five low-bit layers, each look at the clock a second after the one before.
    assert parts["quantize activations"] == parts["quantize weights"] == parts["quantize errors"] == 5000
    assert parts["whole step"] == 1000 * (2 * 15 + 1)
    assert parts["all else"] == parts["whole step"] - 15000
