"""LQ-Net's activations as they train."""

import numpy as np
import torch

from qpipe.arith.spec import QuantSpec
from qpipe.formats.lq import lq_table
from qpipe.train.learned_quantizer import LearnedQuantizer


def test_there_is_no_gradient_above_the_largest_level() -> None:
    """LQ-Nets, section 3.2: straight through where x is not clipped; here from 0 to 0.5 + 1, of a grid up to 3.98."""
    before = QuantSpec.unsigned(8, -6)
    basis = (0.5, 1.0)
    quantizer = LearnedQuantizer(lq_table(np.float32(basis), before), basis, carries=False)
    x = torch.tensor([-0.5, 0.25, 1.0, 1.49, 1.51, 3.0, 5.0], requires_grad=True)
    y = quantizer(x)
    y.backward(torch.arange(1.0, 8.0))
    assert y.tolist() == [0, 0, 1, 1.5, 1.5, 1.5, 1.5]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0, 0]
