"""A float network judged as it was trained: the task's metric of the low-bit forward."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from qpipe.arith.mls.quantize import quantize
from qpipe.data import Source
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import Ending, Task
from qpipe.train.executor import Executor
from qpipe.train.low_bit_metric import BATCH, low_bit_metric
from support.networks import Network, float_model, load
from support.training import bright_images
from support.zoo.residual import made, post_activation

MLS = FinetuneSettings(arithmetic="mls", element=(2, 1), rounding="stochastic")


def network() -> ir.Model:
    _, model = made(post_activation)
    return model


def task_on(model: ir.Model, **values: object) -> Task:
    return Task(output=str(model.graph.outputs[0].name), **values)  # type: ignore[arg-type]


def test_it_is_the_metric_of_the_low_bit_forward(source: Source) -> None:
    """By hand: a network of three matrices, all of its products quantized to nearest."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((192, 192)).astype(np.float32) / 14 for name in ("a", "b")}
    model = float_model(
        "rows", (3, 8, 8), ["r = Flatten(x)", "p = MatMul(r, a)", "q = MatMul(p, b)", "y = MatMul(q, c)"],
        **arrays, c=rng.standard_normal((192, 4)).astype(np.float32),
    )  # fmt: skip
    settings = MLS.model_copy(update={"low_bit_ends": True})
    right = total = 0
    for batch in source.batches(BATCH):
        x = torch.from_numpy(batch.inputs).flatten(1)
        for node in list(model.graph)[1:]:
            value = node.inputs[1]
            assert value is not None
            assert value.const_value is not None
            w = torch.from_numpy(np.array(value.const_value.numpy())).T
            qx, qw = (
                quantize(x, settings.format_of("activation"), None),
                quantize(w, settings.format_of("weight"), None),
            )
            x = qx.values @ (qw.values * (qw.scale * qx.scale)).T
        right += int((x.argmax(1).numpy() == batch.labels).sum())
        total += len(batch)
    assert low_bit_metric(model, settings, source, task_on(model)) == right / total
    assert 0 < right < total


def test_formats_count(source: Source) -> None:
    """With eight bits of mantissa it is the float network's, with one bit another one."""
    model = network()
    found = {
        m: low_bit_metric(model, FinetuneSettings(arithmetic="mls", element=(5, m)), source, task_on(model))
        for m in (8, 0)
    }
    right = total = 0
    executor = Executor(model)
    for batch in source.batches(BATCH):
        with torch.no_grad():
            answers = executor(torch.from_numpy(batch.inputs))[0].argmax(1).numpy()
        right += int((answers == batch.labels).sum())
        total += len(batch)
    assert found[8] == pytest.approx(right / total, abs=1 / total)
    assert found[0] != found[8]


def test_what_the_graph_chooses_is_judged_by_its_scores(source: Source) -> None:
    net = Network(3, 8, 8)
    scores = net.head(net.op("Relu", net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 8)), 8, 4)
    whole = net.op("ArgMax", scores, axis=1, keepdims=0)
    protos = [net.proto(scores), net.proto(whole)]
    protos[0].graph.node.pop()
    protos[1].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with_scores, with_choice = map(load, protos)
    chosen = task_on(with_choice, is_choice=True, ending=Ending(scores))
    expected = low_bit_metric(with_scores, MLS, source, task_on(with_scores))
    assert expected is not None
    assert low_bit_metric(with_choice, MLS, source, chosen) == expected


def test_without_a_metric_there_is_none() -> None:
    assert low_bit_metric(network(), MLS, bright_images(), task_on(network(), metric=None)) is None
