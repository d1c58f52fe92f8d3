import numpy as np
import pytest
import torch

from qpipe.data import open_data
from qpipe.demo.network import INPUT_SHAPE, PREPROCESS, DigitsResNet, one_thread, train_network


def test_shapes_and_skips() -> None:
    network = DigitsResNet().eval()
    assert network(torch.zeros(3, *INPUT_SHAPE)).shape == (3, 10)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("Conv2d") == kinds.count("BatchNorm2d") == 9
    assert kinds.count("Identity") == 1


def test_the_preprocessing_is_that_of_the_data() -> None:
    inputs = np.concatenate([batch.inputs for batch in open_data("digits", "train", PREPROCESS).batches(256)])
    assert inputs.shape[1:] == INPUT_SHAPE
    # Mean and deviation are rounded to two digits.
    assert abs(float(inputs.mean())) < 0.05
    assert float(inputs.std()) == pytest.approx(1, abs=0.05)


def test_one_seed_one_network_and_the_callers_seed_stays() -> None:
    state = torch.random.get_rng_state()
    first, second, third = (train_network(epochs=1, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_learns() -> None:
    network = train_network(epochs=4, seed=0)
    right = total = 0
    for batch in open_data("digits", "test", PREPROCESS).batches(256):
        with torch.no_grad():
            answers = network(torch.from_numpy(batch.inputs)).argmax(1).numpy()
        right += int((answers == batch.labels).sum())
        total += len(answers)
    assert right / total > 0.97


def test_one_thread_and_then_as_many_as_before() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
