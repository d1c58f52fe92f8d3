"""The healthy float networks that cases start from: small, and between them of every op, subgraphs and functions."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper, parser

CLASSES: Final = 4
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "digits": (1, 8, 8),
    "mobile": (1, 8, 8),
    "tail": (1, 8, 8),
    "pools": (1, 8, 8),
    "wrapped": (1, 8, 8),
    "keyword": (4, 16),
    "matrices": (16,),
}
"""The input of each network, without the batch."""


def float_networks() -> dict[str, onnx.ModelProto]:
    return {name: NETWORKS[name](np.random.default_rng(number)) for number, name in enumerate(SHAPES)}


class _Weights(dict[str, Any]):
    """Constants by name, drawn as they are asked for; each method returns the name."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def weight(self, *shape: int) -> str:
        scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        return self.constant(self.rng.normal(0, scale, shape).astype(np.float32))

    def bias(self, channels: int) -> str:
        return self.constant(self.rng.normal(0, 0.3, channels).astype(np.float32))

    def constant(self, value: Any) -> str:
        name = f"c{len(self)}"
        self[name] = np.asarray(value)
        return name

    def norm(self, channels: int) -> str:
        """gamma, beta, mean and variance, as arguments."""
        gamma = self.constant(self.rng.uniform(0.5, 1.5, channels).astype(np.float32))
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        return ", ".join([gamma, self.bias(channels), self.bias(channels), self.constant(variance)])


def _parse(name: str, nodes: str, w: _Weights, functions: str = "", opsets: str = '"": 21') -> onnx.ModelProto:
    sizes = ", ".join(map(str, SHAPES[name]))
    text = f"{name} (float[N, {sizes}] x) => (float[N, {CLASSES}] y) {{ {nodes} }} {functions}"
    proto = parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]> {text}")
    proto.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in w.items())
    return proto


def _digits(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    nodes = f"""
        [conv1] a = Conv<pads=[1,1,1,1]>(x, {w.weight(8, 1, 3, 3)})
        [norm1] b = BatchNormalization<epsilon=1e-5>(a, {w.norm(8)})
        [relu1] c = Relu(b)
        [conv2] d = Conv<pads=[1,1,1,1]>(c, {w.weight(8, 8, 3, 3)})
        [norm2] e = BatchNormalization(d, {w.norm(8)})
        [add] f = Add(e, c)
        [relu2] g = Relu(f)
        [conv3] h = Conv<strides=[2,2], pads=[1,1,1,1]>(g, {w.weight(8, 8, 3, 3)}, {w.bias(8)})
        [relu3] i = Relu(h)
        [pool] j = AveragePool<kernel_shape=[2,2], strides=[2,2]>(i)
        [flatten] k = Flatten(j)
        [linear] y = Gemm<transB=1>(k, {w.weight(CLASSES, 32)}, {w.bias(CLASSES)})"""
    return _parse("digits", nodes, w)


def _mobile(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    low, high = w.constant(np.float32(0)), w.constant(np.float32(6))
    nodes = f"""
        [pad] p = Pad(x, {w.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))})
        [conv1] a = Conv(p, {w.weight(8, 1, 3, 3)})
        [norm1] b = BatchNormalization(a, {w.norm(8)})
        [relu6] c = Clip(b, {low}, {high})
        [depthwise] d = Conv<group=8, pads=[1,1,1,1]>(c, {w.weight(8, 1, 3, 3)})
        [norm2] e = BatchNormalization(d, {w.norm(8)})
        [swish] f = HardSwish(e)
        [point] g = Conv(f, {w.weight(8, 8, 1, 1)}, {w.bias(8)})
        [gate] s = Sigmoid(g)
        [silu] h = Mul(g, s)
        [concat] i = Concat<axis=1>(h, c)
        [down] j = Conv<strides=[2,2], pads=[0,0,1,1], group=2>(i, {w.weight(8, 8, 3, 3)}, {w.bias(8)})
        [leaky] k = LeakyRelu<alpha=0.125>(j)
        [global] l = GlobalAveragePool(k)
        [flatten] m = Flatten(l)
        [linear] y = Gemm<transB=1, alpha=1.0, beta=1.0>(m, {w.weight(CLASSES, 8)}, {w.bias(CLASSES)})"""
    return _parse("mobile", nodes, w)


def _tail(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    nodes = f"""
        [conv1] a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, {w.weight(8, 1, 3, 3)}, {w.bias(8)})
        [relu1] b = Relu(a)
        [pool] c = MaxPool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]>(b)
        [mean] d = ReduceMean<keepdims=0>(c, {w.constant(np.array([2, 3]))})
        [linear] e = MatMul(d, {w.weight(8, CLASSES)})
        [bias] f = Add(e, {w.bias(CLASSES)})
        [softmax] g = Softmax<axis=-1>(f)
        [log] h = Log(g)
        [scale] y = Mul(h, {w.constant(np.float32(2))})"""
    return _parse("tail", nodes, w)


def _pools(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    slices = ", ".join(w.constant(np.array([value])) for value in (1, 8, 2))
    nodes = f"""
        [conv1] a = Conv<pads=[1,1,1,1]>(x, {w.weight(8, 1, 3, 3)}, {w.bias(8)})
        [relu1] b = Relu(a)
        [ceil] c = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=1>(b)
        [conv2] d = Conv(c, {w.weight(8, 8, 1, 1)}, {w.bias(8)})
        [tanh] e = Tanh(d)
        [padded] f = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(e)
        [max] g = MaxPool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(f)
        [slice] h = Slice(g, {slices})
        [conv3] i = Conv<dilations=[2,2], pads=[2,2,2,2]>(h, {w.weight(8, 8, 3, 3)})
        [transpose] j = Transpose<perm=[0,2,3,1]>(i)
        [reshape] k = Reshape(j, {w.constant(np.array([0, -1]))})
        [linear] y = MatMul(k, {w.weight(16, CLASSES)})"""
    return _parse("pools", nodes, w)


def _wrapped(rng: np.random.Generator) -> onnx.ModelProto:
    """With a function, an If whose condition is constant, a Constant node, an Identity and a Dropout."""
    w = _Weights(rng)
    nodes = f"""
        [conv1] a = Conv<pads=[1,1,1,1]>(x, {w.weight(8, 1, 3, 3)})
        [act] b = local.Activation(a)
        [same] c = Identity(b)
        [if] d = If({w.constant(np.bool_(True))})<
            then_branch = yes () => (float[N, 8, 8, 8] t) {{ t = Relu(c) }},
            else_branch = no () => (float[N, 8, 8, 8] f) {{ f = Identity(c) }}>
        [drop] e = Dropout(d)
        [low] l = Constant<value_float=0.0>()
        [clip] f = Clip(e, l)
        [global] g = GlobalAveragePool(f)
        [flatten] h = Flatten(g)
        [linear] y = Gemm<transB=1>(h, {w.weight(CLASSES, 8)}, {w.bias(CLASSES)})"""
    function = '<domain: "local", opset_import: ["": 21]> Activation (u) => (v) { s = Sigmoid(u) v = Mul(u, s) }'
    return _parse("wrapped", nodes, w, function, '"": 21, "local": 1')


def _keyword(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    nodes = f"""
        [conv1] a = Conv<pads=[1,1]>(x, {w.weight(8, 4, 3)})
        [norm1] b = BatchNormalization(a, {w.norm(8)})
        [relu1] c = Relu(b)
        [conv2] d = Conv<strides=[2], pads=[1,1], group=2>(c, {w.weight(8, 4, 3)}, {w.bias(8)})
        [relu2] e = Relu(d)
        [mean] f = GlobalAveragePool(e)
        [flatten] g = Flatten(f)
        [linear] y = Gemm<transB=1>(g, {w.weight(CLASSES, 8)}, {w.bias(CLASSES)})"""
    return _parse("keyword", nodes, w)


def _matrices(rng: np.random.Generator) -> onnx.ModelProto:
    w = _Weights(rng)
    nodes = f"""
        [fc1] a = Gemm<transB=1>(x, {w.weight(16, 16)}, {w.bias(16)})
        [relu1] b = Relu(a)
        [fc2] c = MatMul(b, {w.weight(16, 8)})
        [bias2] d = Add(c, {w.bias(8)})
        [norm] e = BatchNormalization(d, {w.norm(8)})
        [gelu] f = HardSigmoid<alpha=0.2, beta=0.5>(e)
        [fc3] y = Gemm(f, {w.weight(8, CLASSES)}, {w.bias(CLASSES)})"""
    return _parse("matrices", nodes, w)


NETWORKS: Final[dict[str, Callable[[np.random.Generator], onnx.ModelProto]]] = {
    "digits": _digits,
    "mobile": _mobile,
    "tail": _tail,
    "pools": _pools,
    "wrapped": _wrapped,
    "keyword": _keyword,
    "matrices": _matrices,
}
