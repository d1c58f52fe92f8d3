"""Tables made by hand, put behind the quantizers of a QDQ graph."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable
from qpipe.ir.quantized.qdq import ActivationQuantizer, insert_activation_quantizer, quantizer_nodes
from qpipe.ir.quantized.view import read_view


def random_table(
    before: QuantSpec, rng: np.random.Generator, *, levels: int = 60, signed: bool = False, narrow: bool = False
) -> CodeTable:
    """Ascending levels over the range of `before`; narrow: the grid behind ends at the last of them.

    No code is larger than those of `before`, for which pairs of weights that read them were kept safe.
    """
    levels = min(levels, before.stored_max - before.stored_min)
    log2_ymax = before.exponent + before.bits - before.is_signed
    after = QuantSpec.for_range(8, log2_ymax, signed=signed)
    after = replace(after, qmax=min(after.qmax, before.stored_max - after.zero_point))
    levels = min(levels, after.stored_max - after.stored_min)
    steps = np.sort(rng.choice(np.arange(after.stored_min, after.stored_max + 1), levels, replace=False))
    bounds = rng.choice(np.arange(before.stored_min + 1, before.stored_max + 1), levels - 1, replace=False)
    entries = steps[np.searchsorted(np.sort(bounds), np.arange(256), "right")]
    table = CodeTable(before, after, tuple(entries.tolist()))
    return replace(table, grid=table.reach) if narrow else table


def put_table(graph: ir.Graph, quantizer: ActivationQuantizer, table: CodeTable) -> None:
    """Let a quantizer's readers have what comes out of the table."""
    old = quantizer.output.producer()
    assert old is not None
    first = quantizer_nodes(old)[0]
    insert_activation_quantizer(graph, quantizer.source, table, only=[first], suffix="table", meltable=True)
    new = first.inputs[0]
    assert new is not None
    name = quantizer.output.name
    quantizer.output.replace_all_uses_with(new, replace_graph_outputs=True)
    quantizer.output.name, new.name = new.name, name


def put_tables(model: ir.Model, *, seed: int = 0) -> int:
    """Behind every quantizer of what is no carrier; unsigned, signed, and narrow ones by turns. How many there are."""
    rng, view = np.random.default_rng(seed), read_view(model)
    quantizers = [*view.inputs, *(layer.quantizer for layer in view.layers if layer.quantizer is not None)]
    chosen = [q for q in quantizers if q.source.producer() is None or q.source.producer().op_type not in CARRIERS]
    for index, quantizer in enumerate(chosen):
        signed = quantizer.grid.is_signed or index % 3 == 1
        table = random_table(quantizer.grid, rng, signed=signed, narrow=index % 3 == 2)
        put_table(model.graph, quantizer, table)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    return len(chosen)


CARRIERS = {"Flatten", "Reshape", "Transpose", "Slice", "Pad", "Concat", "MaxPool", "Dropout", "DequantizeLinear"}
