"""PyTorch modules of several inputs, exported and taken through calibration."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import qpipe
from qpipe.errors import ModelError
from qpipe.ir.files.torch_import import resolve_model
from support.run import run_as_written

# Sums of 27 products in another order: a few roundings of 2**-24 on values of about one.
REORDERED_SUMS = 1e-5


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.state, self.out = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, image, state, scale=None):
        x = torch.relu(self.conv(image)).mean((2, 3)) + self.state(state)
        return self.out(torch.relu(x if scale is None else x * scale))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, tokens):
        return self.out(torch.relu(self.embed(tokens).mean(1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TwoInputs()


def example(batch=4):
    return {"image": torch.randn(batch, 3, 8, 8), "state": torch.randn(batch, 5)}


def assert_as_torch(model, net, inputs):
    assert [value.name for value in model.graph.inputs] == list(inputs)
    (found,) = run_as_written(model, **{name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        expected = net(**inputs)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=REORDERED_SUMS)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_an_example_tells_names_and_types_and_the_batch_is_open(net, batch, as_tuple):
    given = example(batch)
    model = resolve_model((net, tuple(given.values()) if as_tuple else given))
    assert_as_torch(model, net, example(3))


def test_shapes_by_the_names_of_the_parameters(net):
    model = resolve_model(net, input_shape={"state": (5,), "image": (3, 8, 8)})
    inputs = example(3)
    assert_as_torch(model, net, {name: inputs[name] for name in ("state", "image")})


def test_a_parameter_that_has_a_default_may_be_given(net):
    inputs = {**example(2), "scale": torch.randn(2, 1)}
    assert_as_torch(resolve_model((net, inputs)), net, inputs)


def test_integers_stay_integers():
    net = Words()
    model = resolve_model((net, torch.randint(0, 20, (2, 7))))
    assert model.graph.inputs[0].dtype.name == "INT64"
    assert_as_torch(model, net, {"tokens": torch.randint(0, 20, (5, 7))})


def test_without_a_common_first_axis_sizes_are_those_of_the_example(net):
    inputs = {"image": torch.randn(2, 3, 8, 8), "state": torch.randn(1, 5)}
    model = resolve_model((net, inputs))
    assert [list(value.shape) for value in model.graph.inputs] == [[2, 3, 8, 8], [1, 5]]
    assert_as_torch(model, net, inputs)


def test_it_is_calibrated_on_arrays_by_name(net):
    data = {name: tensor.numpy() for name, tensor in example(32).items()}
    model = qpipe.calibrate((net, example()), data, preprocess={})
    assert qpipe.inspect(model).kind == "QDQ, trainable"
    assert qpipe.inspect((net, example())).ready


def test_a_factory_may_return_an_example_with_the_module(tmp_path, monkeypatch, net):
    (tmp_path / "nets_with_examples.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Sum(nn.Module):\n    def forward(self, a, b): return a + b\n"
        "def make(): return Sum(), (torch.ones(2, 3), torch.ones(2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = resolve_model("nets_with_examples:make")
    assert [value.name for value in model.graph.inputs] == ["a", "b"]
    del sys.modules["nets_with_examples"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"picture": torch.ones(2, 3, 8, 8)}, "the example has 'picture': there is no such input"),
        ({"image": torch.ones(2, 3, 8, 8), "state": 3}, "the example's 'state' is int, expected a tensor"),
        ((torch.ones(2, 3),) * 4, "the example is 4 tensors, expected tensors for image, state, scale"),
        (3, "the example is int, expected tensors for image, state, scale"),
        ({"image": torch.ones(2, 3, 8, 8), "state": torch.ones(2, 4)}, r"state \[batch, 4\] does not fit"),
        ((torch.ones(2, 3, 8, 8),), "does not fit: TypeError"),
    ],
    ids=["no parameter", "no tensor", "too many", "none at all", "another size", "too few"],
)  # fmt: skip
def test_what_is_refused(net, given, said):
    with pytest.raises(ModelError, match=f"^TwoInputs: .*{said}"):
        resolve_model((net, given))


def test_what_is_refused_of_shapes(net):
    with pytest.raises(ModelError, match=r"TwoInputs: input shape picture=3,8,8: there is no such input"):
        resolve_model(net, input_shape={"picture": (3, 8, 8)})
    with pytest.raises(ModelError, match="comes with an example of its inputs, expected no input shape"):
        resolve_model((net, example()), input_shape={"image": (3, 8, 8)})
