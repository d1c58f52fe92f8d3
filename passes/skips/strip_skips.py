"""Strip skip connections: what read a residual Add reads its main path instead.

    y = f(main(x) + skip(x))   becomes   y = f(main(x))

The Add goes, and what fed nothing but the Add. Conv -> BatchNormalization -> Add -> Relu becomes Conv ->
BatchNormalization -> Relu; in a QDQ graph the quantizer between the main path and the Add goes too, so that the layer
has the one that was the Add's. A tensor that was carried wider for the skip alone gets the grid of its other reader.
Source of the blocks: `qpipe.ir.graph.residual`. The function changes; training the skips away before is somebody
else's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ir.graph.layer_options import names_like
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.ir.graph.rewrite import activation_behind
from qpipe.ir.graph.stripped_blocks import StrippedBlock, add_stripped_blocks
from qpipe.ir.quantized.bypass import (
    fuse_batch_norm,
    inherit_bound,
    keep_apart,
    narrow,
    quantizer_before,
    quantizers_reading,
    replace_value,
)
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ops import Curve, Role, activation_of

_NEAR = 3  # names that a message suggests


@dataclass(frozen=True, kw_only=True)
class StripSkips(ir.passes.InPlacePass):
    """Strip the residual blocks whose names match; `qpipe.plain` in the metadata lists what was removed.

    blocks: a pattern of names such as `layer3.*`, as of `qpipe.ir.graph.layer_options`, or several, apart by commas.
    """

    name: ClassVar[str] = "strip-skips"

    blocks: str = "*"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Strip every block that is chosen, or raise LoweringError before anything is changed."""
        strip_blocks(model, chosen_blocks(model.graph, self.blocks))
        return ir.passes.PassResult(model, True)


def chosen_blocks(graph: ir.Graph, blocks: str) -> list[ResidualBlock]:
    """Those that the patterns name; LoweringError where a pattern matches none, or a block can't be stripped."""
    found = find_blocks(graph)
    patterns = [pattern.strip() for pattern in blocks.split(",")]
    for pattern in patterns:
        _require_match(pattern, found)
    chosen = [block for block in found if any(map(block.matches, patterns))]
    _refuse_obstacles(found, chosen)
    return chosen


def strip_blocks(model: ir.Model, blocks: Sequence[ResidualBlock]) -> None:
    """Cut the skips of these blocks of the model, and list them in its metadata."""
    position = {node: index for index, node in enumerate(model.graph)}
    # The last block first: what a block reads is there until it is stripped itself.
    removed = {block: _strip(model.graph, block) for block in reversed(blocks)}
    gone = {node for nodes in removed.values() for node in nodes}
    stripped = []
    for block in blocks:
        known = (node for node in removed[block] if node in position)
        names = tuple(str(node.name) for node in sorted(known, key=position.__getitem__))
        # A block within it may have had weights on its skip.
        layers = tuple(Layer(node).name for node in block.layers if node not in gone)
        stripped.append(StrippedBlock(block.name, layers, names))
    model.graph.sort()
    add_stripped_blocks(model, stripped)


def _require_match(pattern: str, found: Sequence[ResidualBlock]) -> None:
    """Raise LoweringError where no block has such a name."""
    if not found:
        raise LoweringError("no residual Add, expected one that joins a skip with a longer path")
    if not any(block.matches(pattern) for block in found):
        names = names_like(pattern, [(block.name, block.name) for block in found])
        raise LoweringError(
            f"blocks '{pattern}': matches no residual block, expected a pattern of names such as {names}"
        )


def _refuse_obstacles(found: Sequence[ResidualBlock], chosen: Sequence[ResidualBlock]) -> None:
    """Raise LoweringError where a chosen block can't be stripped."""
    obstacles = [(block, obstacle) for block in chosen if (obstacle := block.obstacle) is not None]
    if obstacles:
        block, obstacle = obstacles[0]
        more = f" (and {len(obstacles) - 1} more such blocks)" if len(obstacles) > 1 else ""
        able = [f"'{other.name}'" for other in found if other.obstacle is None][:_NEAR]
        hint = f"; those that can be stripped are blocks such as {', '.join(able)}" if able else ""
        raise LoweringError(f"block '{block.name}', Add '{Layer(block.add).name}': {obstacle}{more}{hint}")


def _strip(graph: ir.Graph, block: ResidualBlock) -> list[ir.Node]:
    """Join the Add's readers to the main path and remove what is dead then; returns what was removed."""
    total, end, start = block.add.outputs[0], block.main, quantizer_before(block.start)
    follower = activation_behind(total)
    quantizers = _quantizers_around(block.main, total if follower is None else follower.outputs[0])
    if quantizers is not None:
        before, behind = quantizers
        producer = before.source.producer()
        assert producer is not None
        is_activated = activation_of(producer) is not None
        if is_activated and follower is not None and follower.op_type == "Relu":
            # A layer has one activation, and the second does nothing to what the first let pass.
            total, follower = follower.outputs[0], None
        is_table = isinstance(before.function, Curve)
        if not is_table and (Layer(producer).role is not Role.CARRY or (is_activated and follower is None)):
            end = before.source
            inherit_bound(before, behind)
        elif follower is None:
            keep_apart(before, behind)
    replace_value(total, end)
    removed = _remove_dead(graph, [total])
    if start is not None:
        removed += _remove_dead(graph, narrow(start))
    # In pre-activation order nothing but a BatchNormalization may read these now.
    for value in (end, *([] if start is None else [start.source])):
        removed += _remove_dead(graph, fuse_batch_norm(value))
    return removed


def _quantizers_around(main: ir.Value, total: ir.Value) -> tuple[ActivationQuantizer, ActivationQuantizer] | None:
    """The quantizer that ends the main path and the one behind the Add; None in a float graph or a float tail."""
    before, behind = quantizer_before(main), quantizers_reading(total)
    if before is None or behind is None or len(behind) != 1 or before.source.producer() is None:
        return None
    # A source that something else reads too keeps its quantizer.
    return (before, behind[0]) if quantizers_reading(before.source) == [before] else None


def _remove_dead(graph: ir.Graph, values: Sequence[ir.Value]) -> list[ir.Node]:
    """Remove what computes these values and nothing else that is used; returns the nodes."""
    removed: list[ir.Node] = []
    stack: list[ir.Value | None] = [*values]
    while stack:
        value = stack.pop()
        if value is None or value.uses() or value.is_graph_output():
            continue
        node = value.producer()
        if node is None:
            if value.is_initializer() and not value.is_graph_input():
                graph.initializers.pop(str(value.name), None)
        elif node.graph is graph and not any(output.uses() or output.is_graph_output() for output in node.outputs):
            stack.extend(node.inputs)
            graph.remove(node, safe=True)
            removed.append(node)
    return removed
