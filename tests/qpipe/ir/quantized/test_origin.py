import numpy as np
import onnx_ir as ir

from passes.shipping.finalize import Finalize
from qpipe.ir.quantized.origin import origin_of, store_origin, stored_origin
from qpipe.ir.quantized.view import View, read_view
from qpipe.verbs.calibrate import calibrate
from support.zoo.digits import digits_model


def qdq(seed: int = 0) -> ir.Model:
    images = np.random.default_rng(1).normal(size=(8, 1, 8, 8)).astype(np.float32)
    return calibrate(digits_model(seed=seed), images, batches=1)


def final(model: ir.Model) -> tuple[ir.Model, View]:
    Finalize()(model)
    return model, read_view(model)


def test_an_origin_is_that_of_the_integers() -> None:
    model, view = final(qdq())
    assert origin_of(view) == origin_of(final(qdq())[1])
    assert origin_of(view) != origin_of(final(qdq(seed=1))[1])
    assert stored_origin(model) is None
    store_origin(model, view)
    assert stored_origin(model) == origin_of(view)


def test_one_bias_is_enough_for_another_origin() -> None:
    model, view = final(qdq())
    before = origin_of(view)
    bias = model.graph.initializers["linear_final_bias"]
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.eye(1, 10, dtype=np.int32)[0], name=bias.name)
    assert origin_of(read_view(model)) != before
