"""Which part of a float graph becomes integers, and which stays float."""

import numpy as np
import onnx_ir as ir

from qpipe.ir.quantized.parts import split
from support.networks import build, integers

W = {"w": integers(4, 4, 1, 1), "v": integers(4, 4, 1, 1, seed=1)}
IMAGE = "(float[N,4,6,6] x) => (float[] y)"


def parts(nodes: str, signature: str = IMAGE, **constants: np.ndarray) -> tuple[list[str], list[str], list[str]]:
    """The names of what is integer, of islands and of the tail."""
    found = split(build(f"{signature} {{ {nodes} }}", **W, **constants).graph)
    layers, islands, tail = ([layer.name for layer in some] for some in (found.layers, found.islands, found.tail))
    return layers, islands, tail


def begins(nodes: str, signature: str = IMAGE) -> list[str | None]:
    return [value.name for value in split(build(f"{signature} {{ {nodes} }}", **W).graph).begins]


def test_an_island_lies_between_layers_of_weights_and_a_tail_behind_them() -> None:
    nodes = "[a] c = Conv(x, w) [s] t = LpNormalization(c) [b] d = Conv(t, v) [e] y = Hardmax(d)"
    assert parts(nodes) == (["a", "b"], ["s"], ["e"])
    assert begins(nodes) == ["x", "t"]


def test_an_island_ends_as_early_as_it_can() -> None:
    """What only carries integers, before weights, does so; a sum of which one operand is float is an integer one."""
    nodes = "[a] c = Conv(x, w) [s] t = LpNormalization(c) [j] u = Add(t, c) [r] m = Relu(u) [b] y = Conv(m, v)"
    assert parts(nodes) == (["a", "j", "b"], ["s"], [])
    assert begins(nodes) == ["x", "t"]


def test_what_leads_to_no_weights_through_integers_stays_with_its_island() -> None:
    nodes = "[a] c = Conv(x, w) [s] t = LpNormalization(c) [r] m = Relu(t) [q] u = Hardmax(m) [b] y = Conv(u, v)"
    assert parts(nodes) == (["a", "b"], ["s", "r", "q"], [])


def test_a_sum_of_integers_before_an_island_is_an_integer() -> None:
    nodes = "[a] c = Conv(x, w) [j] u = Add(c, x) [s] t = LpNormalization(u) [b] y = Conv(t, v)"
    assert parts(nodes) == (["a", "j", "b"], ["s"], [])


def test_a_front_end_is_an_island_from_the_input_on() -> None:
    nodes = "[r] m = Relu(x) [s] t = LpNormalization(m) [b] y = Conv(t, v)"
    assert parts(nodes) == (["b"], ["r", "s"], [])
    assert begins(nodes) == ["t"]


def test_through_a_second_output() -> None:
    nodes = "[a] c = Conv(x, w) [s] l, r = Split<axis=2, num_outputs=2>(c) [b] y = Conv(r, v)"
    assert parts(nodes) == (["a", "b"], ["s"], [])
    assert begins(nodes) == ["x", "r"]


def test_what_a_branch_takes_from_outside_leads_there() -> None:
    body = "other () => (float[] o) { o = Exp(e) }"
    nodes = (
        "[a] c = Conv(x, w) [e] e = Hardmax(c) [i] t = If<then_branch = then () => (float[] p) { p = Log(e) }, "
        f"else_branch = {body}>(flag) [b] y = Conv(t, v)"
    )
    assert parts(nodes, flag=np.array(True)) == (["a", "b"], ["e", "i"], [])


def test_sizes_and_indices_are_no_integers_of_a_grid() -> None:
    nodes = (
        "[a] c = Conv(x, w) [n] n = Shape(c) [k] k = Concat<axis=0>(n, n) [h] h = Slice(k, zero, four) "
        "[r] t = Reshape(c, h) [b] y = Conv(t, v)"
    )
    zero, four = (np.array([number]) for number in (0, 4))
    assert parts(nodes, zero=zero, four=four) == (["a", "b"], ["n", "k", "h", "r"], [])


def test_a_network_without_islands_has_none() -> None:
    found = split(build(f"{IMAGE} {{ [a] c = Conv(x, w) [r] d = Relu(c) [e] y = Softmax(d) }}", **W).graph)
    assert [layer.name for layer in found.layers] == ["a"]
    assert (found.islands, [layer.name for layer in found.tail]) == ([], ["e"])
    assert isinstance(found.begins[0], ir.Value)


def test_a_product_before_an_island_is_an_integer_and_one_before_outputs_is_none() -> None:
    nodes = "[a] c = Conv(x, w) [m] p = Mul(c, x) [s] t = LpNormalization(p) [b] d = Conv(t, v) [n] y = Mul(d, t)"
    assert parts(nodes) == (["a", "m", "b"], ["s"], ["n"])
