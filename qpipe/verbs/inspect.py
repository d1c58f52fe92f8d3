"""What a model is made of, and what becomes of each node: `qpipe.inspect`."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

import onnx_ir as ir

from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.cost.float_share import float_share
from qpipe.ir.cost.macs import count_parameters, total_macs
from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.files.load import LoadingNote
from qpipe.ir.files.metadata import COMPARISON, checked, get_object
from qpipe.ir.files.opset import original_opset
from qpipe.ir.files.torch_import import ModelLike, resolve_model
from qpipe.ir.graph.layers import STAYS_FLOAT, Layer, kept_in_float
from qpipe.ir.graph.numbers import number_problems
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.quantized.compared import NetworkComparison
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, Requantization, View, Weighted, read_view
from qpipe.ops import Curve, Role, has_weights
from qpipe.ops.quantizer_parts import is_border
from qpipe.settings import TorchSettings
from qpipe.verbs.branches import branch_inputs, said
from qpipe.verbs.options import takes_options
from qpipe.verbs.sizes import advice, is_open, said_open

QUANTIZED: Final = "quantized"
CARRIES: Final = "carries integers"
LOOKED_UP: Final = "looked up"
ISLAND: Final = "float island"
FLOAT_TAIL: Final = "float tail"
NO_FORM: Final = "no integer form"
# Of an export.
INTEGERS: Final = "integers"
BORDER: Final = "border"
FLOAT: Final = "float"

_OPEN: Final = "calibration takes the sizes of the data; what needs them is judged once they are given,"
_BRANCHES: Final = "calibration takes the branch that the data choose, and leaves the input out"
_LOOKED_UP: Final = "integers of integers: codes are looked up"
_FORMS: Final = {Role.CARRY: CARRIES, Role.NONE: NO_FORM}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output; a dimension that is open has a name, or "?"."""

    name: str
    shape: tuple[int | str, ...] | None
    type: str


@dataclass(frozen=True)
class NodeInfo:
    """A node: its role, a note with facts, and what to do, where there is something to do."""

    name: str
    op: str
    role: str
    note: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a model is made of.

    kind: float, QDQ or export. opset, ops: of the file. parameters: of weights and biases. macs: for one image, None
    where shapes are unknown. roles: how many nodes have each. nodes: after normalization; of a QDQ file without the
    quantizers, of an export those that are not integers. residual_blocks: names, for `finetune --blocks`. problems:
    what else stands in the way, a line each. notes: what was changed on loading. comparison: of a calibrated network,
    with the float network that it was.
    """

    kind: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    parameters: int
    macs: int | None
    ops: dict[str, int]
    roles: dict[str, int]
    nodes: tuple[NodeInfo, ...]
    residual_blocks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparison: NetworkComparison | None = None

    @property
    def ready(self) -> bool:
        """Whether nothing stands in the way of integers."""
        return not self.problems and NO_FORM not in self.roles

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "ready": self.ready}


@takes_options
def inspect(model: ModelLike, *, source: TorchSettings) -> Inspection:
    """Say what a model is made of, and which nodes have no integer form: all of them, each with what to do.

    Those that integers follow stay float in the files, as islands (role "float island"), unless an export is told to
    refuse that. A network without any layer of weights that has an integer form can't be calibrated.

    Args:
        model: float, QDQ or exported: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or
            `package.module:factory`.

    Raises:
        ModelError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.inspect("net.onnx")
        >>> report.kind, report.ready, report.ops["Conv"]
        ('float', True, 3)
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", LoadingNote)
        network = resolve_model(model, source.weights, source.input_shape)
    notes = [str(warning.message) for warning in warned if warning.category is LoadingNote]
    for warning in warned:
        if warning.category is not LoadingNote:
            warnings.warn(warning.message, warning.category, stacklevel=2)
    notes += [f"{said_open(value)}: {_OPEN} {advice(value)}" for value in network.graph.inputs if is_open(value)]
    notes += [f"{said(*choice)}: {_BRANCHES}" for choice in branch_inputs(network.graph).items()]
    ops = Counter(node.op_type for node in network.graph)
    kind, view = find_kind(network)
    problems: list[str] = []
    if kind is not Kind.FLOAT:
        infer_shapes(network)
    if kind is Kind.FLOAT:
        normalize(network)
        plan = plan_quantization(network.graph)
        nodes, problems = _float_nodes(network.graph, plan)
        share = float_share(plan)
        notes += [*([] if share is None else [share.words]), *kept_in_float(network.graph)]
        problems += number_problems(network.graph)
    elif view is not None:
        nodes = _view_nodes(view)
    elif kind is Kind.FOREIGN:
        nodes, problems = _foreign_nodes(network)
    else:
        nodes = _export_nodes(network)
    roles = Counter(node.role for node in nodes)
    compared = get_object(network, COMPARISON)
    return Inspection(
        kind=kind.value,
        inputs=tuple(map(_tensor_info, network.graph.inputs)),
        outputs=tuple(map(_tensor_info, network.graph.outputs)),
        opset=original_opset(model),
        parameters=count_parameters(network.graph),
        macs=total_macs(network.graph),
        ops=dict(ops.most_common()),
        roles=dict(roles.most_common()),
        residual_blocks=tuple(block.name for block in find_blocks(network.graph)),
        nodes=tuple(node for node in nodes if node.role != INTEGERS),
        problems=tuple(problems),
        notes=tuple(notes),
        comparison=None if compared is None else checked(COMPARISON, compared, NetworkComparison),
    )


def _float_nodes(graph: ir.Graph, plan: QuantizationPlan) -> tuple[list[NodeInfo], list[str]]:
    found: dict[ir.Node, NodeInfo] = {}
    for layer in plan.layers:
        _add_layer(found, layer, _form(layer), _planned_note(layer, plan))
    unsupported = {layer.node for layer in plan.unsupported}
    for layer in (*plan.islands, *plan.tail):
        # What is told to stay float is told so in a note; it may well have an integer form.
        is_told = bool(layer.node.metadata_props.get(STAYS_FLOAT))
        advice = "" if is_told else str(layer.refusal or "")
        if layer.node in unsupported:
            _add_layer(found, layer, NO_FORM, advice=advice)
        elif layer in plan.islands:
            why = "told to" if is_told else "what it reads or gives does"
            note = "stays float between integers" + ("" if advice else f", as {why}")
            _add_layer(found, layer, ISLAND, note, advice)
        else:
            _add_layer(found, layer, FLOAT_TAIL, "stays float behind the integers")
    for layer in plan.lookups:
        _add_layer(found, layer, LOOKED_UP, _LOOKED_UP)
    problems = []
    if not any(has_weights(layer.node) for layer in (*plan.layers, *plan.islands, *plan.tail)):
        problems.append("no Conv, Gemm or MatMul with constant weights: nothing to quantize")
    return [found[node] for node in graph if node in found], problems


def _form(layer: Layer) -> str:
    """A role, in the words of the table; what becomes a table is quantized, though it keeps its input's width."""
    return QUANTIZED if layer.curve is not None else _FORMS.get(layer.role, QUANTIZED)


def _planned_note(layer: Layer, plan: QuantizationPlan) -> str:
    words = []
    if layer.node in plan.weight_bits:
        words.append(f"{plan.weight_bits[layer.node]}-bit weights")
    if layer.node in plan.last:
        words.append("last layer, int32 output" if layer.node in plan.compared else "int32 output")
    elif (planned := plan.quantizers.get(layer.output)) is not None:
        sign = {True: "signed", False: "unsigned", None: "sign from the data"}[planned.signed]
        kind = sign if planned.curve is None else f"a table of {planned.curve.op_type}"
        words.append(f"{planned.bits}-bit output, {kind}")
    elif layer.curve is not None:
        words.append("a table behind its input's grid")
    return ", ".join(words)


def _view_nodes(view: View) -> list[NodeInfo]:
    found: dict[ir.Node, NodeInfo] = {}
    for layer in view.layers:
        if isinstance(layer, Requantization):
            verb = "" if isinstance(layer.function, Curve) else "requantizes "
            found[layer.node] = NodeInfo(layer.name, layer.op_type, QUANTIZED, f"{verb}{_quantized_note(layer)}")
        else:
            _add_layer(found, layer, _form(layer), _quantized_note(layer))
    for lookup in view.lookups:
        _add_layer(found, lookup, LOOKED_UP, _LOOKED_UP)
    for island in view.islands:
        _add_layer(found, island, ISLAND, "stays float between integers")
    for tail in view.tail:
        _add_layer(found, tail, FLOAT_TAIL, "stays float behind the integers")
    return [found[node] for node in view.graph if node in found]


def _quantized_note(layer: QuantizedLayer) -> str:
    inputs = ", ".join(_grid(quantizer) for quantizer in layer.sources)
    output = "int32" if layer.quantizer is None else _grid(layer.quantizer)
    output = f"{layer.function.op_type}, {output}" if isinstance(layer.function, Curve) else output
    weights = f"{layer.weight.bits}-bit weights, " if isinstance(layer, Weighted) else ""
    return f"{weights}{inputs} -> {output}"


def _grid(quantizer: ActivationQuantizer) -> str:
    """Such as "uint8 2^-5": what an integer is, and what one step is worth; "4 levels of" it, of a table of levels."""
    spec, table = quantizer.grid, quantizer.table
    is_curve = isinstance(quantizer.function, Curve)
    levels = "" if table is None or is_curve else f"{len(set(table.reached))} levels of "
    return levels + f"{'int' if spec.qmin < 0 else 'uint'}{spec.bits} 2^{spec.exponent}"


def _foreign_nodes(network: ir.Model) -> tuple[list[NodeInfo], list[str]]:
    """A QDQ file that is not of the form that `calibrate` writes: each node by itself."""
    problem = ""
    try:
        read_view(network)
    except ModelError as error:
        problem = str(error)
    nodes = [node for node in network.graph if not is_border(node)]
    return [NodeInfo(Layer(node).name, node.op_type, FLOAT, "as another tool wrote it") for node in nodes], [problem]


def _export_nodes(network: ir.Model) -> list[NodeInfo]:
    notes = {BORDER: "between floats and integers", INTEGERS: "", FLOAT: "float, outside of the integers"}
    roles = [(node, _export_role(node)) for node in network.graph]
    return [NodeInfo(Layer(node).name, node.op_type, role, notes[role]) for node, role in roles]


def _export_role(node: ir.Node) -> str:
    if is_border(node):
        return BORDER
    types = {value.dtype for value in node.outputs if value.dtype is not None}
    return FLOAT if any(dtype.is_floating_point() for dtype in types) else INTEGERS


def _add_layer(found: dict[ir.Node, NodeInfo], layer: Layer, role: str, note: str = "", advice: str = "") -> None:
    """The layer's main node, and those that belong to it."""
    found[layer.node] = NodeInfo(layer.name, layer.op_type, role, note, advice)
    for node in layer.nodes[1:]:
        found[node] = NodeInfo(Layer(node).name, node.op_type, role, f"part of {layer.op_type} '{layer.name}'")


def _tensor_info(value: ir.Value) -> TensorInfo:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape)
    return TensorInfo(str(value.name), shape, "unknown" if value.dtype is None else value.dtype.name.lower())
