"""What is seen of a step's weights, activations and errors; and that the step is what it was."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qpipe.train.diagnostics.low_bit import FORMATS, GROUPED, ROLES, SPLITS, LowBitErrors
from qpipe.train.diagnostics.relative_error import below_half, group_maxima, relative_errors
from qpipe.train.executor import Executor
from support.training import assert_same, batch_of, run_updates, state_of
from support.zoo.residual import residual_network

DUE = (1, 3, 4)


def start(due: Iterable[int] = DUE) -> tuple[Executor, LowBitErrors]:
    executor = Executor(residual_network(), batch_norm="batch")
    return executor, LowBitErrors(list(executor.products()), frozenset(due).__contains__)


@pytest.fixture(scope="module")
def observed() -> tuple[Executor, dict[str, Any]]:
    executor, errors = start()
    run_updates(executor, range(1, 6), errors)
    return executor, errors.result()


def test_the_result_is_plain_and_complete(observed: tuple[Executor, dict[str, Any]]) -> None:
    executor, result = observed
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    found = result["low_bit"]
    assert found["layers"] == [step.layer.name for step in executor.products()]
    assert found["updates"] == list(DUE)
    assert found["formats"][:2] == [
        {"element": [0, 3], "grouping": "none"},
        {"element": [0, 3], "grouping": "n"},
    ]
    assert len({json.dumps(fmt) for fmt in found["formats"]}) == len(FORMATS) == 10
    for role in ROLES:
        assert torch.tensor(found["relative_error"][role]).shape == (3, 10, 3)
    for role in GROUPED:
        assert [torch.tensor(found["below_half"][role][split]).shape for split in SPLITS] == [(3, 3)] * 3
        assert [len(found["maxima"][role][split]) for split in ("channel", "sample")] == [16, 16]
    assert found["maxima_layer"] == found["layers"][1]


def test_it_is_what_the_step_multiplies() -> None:
    """Of the third update, after two others, by a gradient that autograd is asked for."""
    executor, errors = start(due=[3])
    run_updates(executor, range(1, 4), errors)
    found = errors.result()["low_bit"]

    again, _ = start()
    run_updates(again, range(1, 3))
    seen: list[dict[str, torch.Tensor]] = []
    for step in again.products():
        step.module.watch(lambda x, w, y: seen.append({"activation": x, "weight": w, "y": y}))
    inputs, labels = batch_of(3)
    loss = F.cross_entropy(again.train()(inputs)[0].flatten(1), labels)
    gradients = torch.autograd.grad(loss, [operands["y"] for operands in seen])
    for layer, (operands, gradient) in enumerate(zip(seen, gradients, strict=True)):
        operands |= {"error": gradient}
        for role in ROLES:
            x = operands[role].detach()
            expected = relative_errors(x, FORMATS).tolist()
            measured = [errors_of[layer] for errors_of in found["relative_error"][role][0]]
            assert measured == [float(f"{error:.4g}") for error in expected]
        for role in GROUPED:
            maxima = group_maxima(operands[role].detach())
            for split in SPLITS:
                share = found["below_half"][role][split][0][layer]
                assert share == float(f"{below_half(maxima[split]).item():.4g}")
            if layer == 1:
                channels = [float(f"{value:.4g}") for value in maxima["channel"].tolist()]
                assert found["maxima"][role]["channel"] == channels


def test_looking_changes_no_bit(observed: tuple[Executor, dict[str, Any]]) -> None:
    alone, _ = start()
    run_updates(alone, range(1, 6))
    assert_same(state_of(observed[0]), state_of(alone))


@pytest.mark.parametrize("stopped", [1, 2, 4])
def test_a_resumed_run_sees_what_a_whole_one_does(observed: tuple[Executor, dict[str, Any]], stopped: int) -> None:
    executor, first = start()
    run_updates(executor, range(1, stopped + 1), first)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    resumed, second = start()
    resumed.load_state_dict(executor.state_dict())
    second.load_state(state)
    run_updates(resumed, range(stopped + 1, 6), second)
    assert second.result() == observed[1]


def test_of_several_batches_in_an_update_the_first_counts() -> None:
    (executor, errors), (alone, once) = start(due=[1]), start(due=[1])
    for one, images in ((executor, [1, 2]), (alone, [1])):
        observer = errors if one is executor else once
        observer.on_start(one)
        one.train()
        for step in images:
            inputs, labels = batch_of(step)
            F.cross_entropy(one(inputs)[0].flatten(1), labels).backward()
    assert errors.result() == once.result()


def test_where_no_update_is_due_there_is_nothing() -> None:
    executor, errors = start(due=[7])
    run_updates(executor, range(1, 7), errors)
    assert errors.result() == {"low_bit": None}
    assert errors.state().keys() == {"done", "updates"}


def test_what_is_no_number_or_all_zero_has_no_error() -> None:
    executor, errors = start(due=[1])
    step = next(iter(executor.products()))
    with torch.no_grad():
        step.module.weight.zero_()
    errors.on_start(executor)
    inputs, labels = batch_of(1)
    inputs[0, 0, 0, 0] = torch.inf
    F.cross_entropy(executor.train()(inputs)[0].flatten(1), labels).backward()
    found = errors.result()["low_bit"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for role in ("weight", "activation"):
        assert [of_format[0] for of_format in found["relative_error"][role][0]] == [None] * len(FORMATS)
