"""Put into an activation's quantizer what training changes of it: its table, or its exponent."""

from __future__ import annotations

import numpy as np

from qpipe.arith.table import CodeTable
from qpipe.ir.quantized.notes import write_basis
from qpipe.ir.quantized.qdq import ActivationQuantizer, quantizer_nodes
from qpipe.ir.quantized.tables import look_up_of
from qpipe.nodes import set_constant_input


def write_table(quantizer: ActivationQuantizer, table: CodeTable) -> None:
    """Replace the quantizer's table, whose grids stay, and the basis that it is made from."""
    dequantize = quantizer.output.producer()
    assert dequantize is not None
    gather = look_up_of(quantizer_nodes(dequantize))
    assert gather is not None
    set_constant_input(gather, 0, table.array())
    write_basis(gather, table)


def write_exponent(quantizer: ActivationQuantizer, exponent: int) -> None:
    """Let a quantizer without a table have another exponent; its codes keep their range."""
    dequantize = quantizer.output.producer()
    assert dequantize is not None
    assert quantizer.table is None
    for node in (quantizer_nodes(dequantize)[0], dequantize):
        set_constant_input(node, 1, np.array(2.0**exponent, np.float32))
