"""How the time of `inspect`, `calibrate` and `export` grows with the number of nodes: it must be in proportion.

Two chains without much to compute: of convolutions, each with its ReLU, some of them in residual blocks; and of nodes
that do nothing but carry. CPU seconds of this process count, so that what else runs on the machine disturbs little.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from results import Results, Row, rounded

import qpipe

CHANNELS = 4
DATA = np.random.default_rng(0).standard_normal((2, CHANNELS, 4, 4)).astype(np.float32)


def convolutions(count: int) -> onnx.ModelProto:
    """So many convolutions with a ReLU each; every other pair of them is a residual block."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    start = value
    for index in range(count):
        # Near the identity, or next to nothing beside a skip: values neither grow nor die on the way.
        near = np.eye(CHANNELS) + 0.01 * rng.standard_normal((CHANNELS, CHANNELS))
        weight = ((0.02 if index % 4 == 1 else 1.0) * near).astype(np.float32)
        weights.append(numpy_helper.from_array(weight.reshape(CHANNELS, CHANNELS, 1, 1), f"w{index}"))
        start = value if index % 4 == 0 else start
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"conv{index}"))
        value = f"c{index}"
        if index % 4 == 1:
            nodes.append(helper.make_node("Add", [value, start], [f"a{index}"], f"add{index}"))
            value = f"a{index}"
        nodes.append(helper.make_node("Relu", [value], [f"r{index}"], f"relu{index}"))
        value = f"r{index}"
    return _network(nodes, weights, value)


def carriers(count: int) -> onnx.ModelProto:
    """So many ReLUs, one behind the other."""
    nodes = [helper.make_node("Relu", [f"r{i - 1}" if i else "x"], [f"r{i}"], f"relu{i}") for i in range(count)]
    return _network(nodes, [], f"r{count - 1}")


def _network(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], value: str) -> onnx.ModelProto:
    """With a last layer behind the chain."""
    last = numpy_helper.from_array(np.eye(CHANNELS, dtype=np.float32).reshape(CHANNELS, CHANNELS, 1, 1), "last")
    nodes += [
        helper.make_node("Conv", [value, "last"], ["z"], "last_conv"),
        helper.make_node("GlobalAveragePool", ["z"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["y"], "flatten"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [info("x", TensorProto.FLOAT, ["N", *DATA.shape[1:]])],
        [info("y", TensorProto.FLOAT, ["N", CHANNELS])],
        [*weights, last],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def measure(make: Callable[[int], onnx.ModelProto], counts: list[int], folder: Path, *, lower: bool) -> list[Row]:
    """A row for each stage: milliseconds a node at each size, and how the largest compares with the smallest."""
    path, quantized = folder / "chain.onnx", folder / "chain.qdq.onnx"
    stages: dict[str, Callable[[], object]] = {"inspect": lambda: qpipe.inspect(path)}
    if lower:
        stages["calibrate"] = lambda: qpipe.calibrate(path, DATA, quantized, batches=1)
        stages["export"] = lambda: qpipe.export(quantized, folder / "chain.int8.onnx")
    rows: dict[str, dict[str, str | float | int | None]] = {name: {"stage": name} for name in stages}
    costs: dict[str, list[float]] = {name: [] for name in stages}
    for count in counts:
        model = make(count)
        onnx.save(model, path)
        for name, run in stages.items():
            start = time.process_time()
            run()
            costs[name].append(1e3 * (time.process_time() - start) / len(model.graph.node))
            rows[name][f"{len(model.graph.node)} nodes, ms a node"] = rounded(costs[name][-1])
    return [row | {"x": rounded(costs[name][-1] / costs[name][0])} for name, row in rows.items()]


def main(
    layers: Annotated[str, typer.Option(help="convolutions of the chains, with commas")] = "250,1000",
    nodes: Annotated[str, typer.Option(help="ReLUs of the chains, with commas")] = "10000,100000",
) -> None:
    """Measure both kinds of chain.

    Example: python tools/bench_graph_size.py --layers 250,1000
    """
    results = Results("graph_size")
    qpipe.inspect(convolutions(2))
    with tempfile.TemporaryDirectory() as folder:
        for title, make, counts, lower in (
            ("convolutions", convolutions, layers, True),
            ("carriers", carriers, nodes, False),
        ):
            sizes = [int(count) for count in counts.split(",")]
            results.add(title, measure(make, sizes, Path(folder), lower=lower))
    results.save()


if __name__ == "__main__":
    typer.run(main)
