import numpy as np
import onnx
import resnet18_like

from qpipe.runtime.session import open_session
from support.run import run_all


def test_shapes_and_parameters_are_those_of_resnet18():
    model = resnet18_like.build(image_size=64, classes=1000)
    operators = [node.op_type for node in model.graph.node]
    assert {
        name: operators.count(name) for name in ("Conv", "BatchNormalization", "Add", "Relu", "MaxPool", "Gemm")
    } == {
        "Conv": 20,
        "BatchNormalization": 20,
        "Add": 8,
        "Relu": 17,
        "MaxPool": 1,
        "Gemm": 1,
    }
    statistics = (".mean", ".var")
    parameters = sum(
        int(np.prod(tensor.dims)) for tensor in model.graph.initializer if not tensor.name.endswith(statistics)
    )
    assert parameters == 11_689_512  # the published figure
    logits = run_all(open_session(model), np.zeros((2, 3, 64, 64), np.float32))[0]
    assert logits.shape == (2, 1000)


def test_one_seed_one_network():
    first, again, other = (resnet18_like.build(image_size=32, classes=10, seed=seed) for seed in (0, 0, 1))
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()


def test_activations_keep_their_size_through_all_layers():
    model = resnet18_like.build(image_size=64, classes=10)
    names = [node.output[0] for node in model.graph.node if node.op_type == "BatchNormalization"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    noise = np.random.default_rng(1).standard_normal((4, 3, 64, 64)).astype(np.float32)
    for name, output in zip(names, run_all(open_session(model), noise), strict=True):
        # gamma lies in [0.5, 1.5]; the last layers see few pixels, so their statistics vary.
        assert 0.3 < output.std() < 3.0, name
