"""The devices that training is tested on: the CPU, and a GPU where there is one."""

import pytest
import torch

each_device = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")),
    ],
)
