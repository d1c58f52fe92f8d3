import onnx_ir as ir

from qpipe.ir.graph.edges import Passage, before_weights, feeding_weights


def test_what_lies_before_and_behind_weights() -> None:
    """A pool, a convolution with a skip around it, and an end with something behind it that has no weights."""
    x, pooled, convolved, added, last, clipped = (ir.Value(name=name) for name in "xpcalr")
    passages = [
        Passage(False, (x,), pooled),
        Passage(True, (pooled,), convolved),
        Passage(False, (convolved, pooled), added),
        Passage(True, (added,), last),
        Passage(False, (last,), clipped),
    ]
    assert before_weights([x], passages) == {x, pooled, added}
    assert feeding_weights(passages) == {x, pooled, convolved, added}
