import json
import random

import numpy as np
import torch

from qpipe.train.random_state import random_state, set_random_state


def draws() -> list[float]:
    # The generators that a user's code may use, the old one of numpy among them.
    normal = np.random.standard_normal(3).tolist()  # noqa: NPY002
    return [*torch.randn(3).tolist(), *normal, random.random(), random.gauss(0, 1)]


def test_draws_come_again() -> None:
    draws()
    state = random_state()
    expected = draws()
    assert draws() != expected
    set_random_state(state)
    assert draws() == expected


def test_all_but_tensors_can_be_json() -> None:
    state = random_state()
    rest = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
    state.update(json.loads(json.dumps(rest)))
    expected = draws()
    set_random_state(state)
    assert draws() == expected
