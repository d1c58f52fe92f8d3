import onnx_ir as ir

from qpipe.ir.files.opset import original_opset
from support.zoo.digits import digits_model


def test_the_opset_that_was_written() -> None:
    model = digits_model()
    model.opset_import[0].version = 13
    assert original_opset(model) == 13
    assert original_opset(ir.from_proto(model)) == 13
    assert original_opset("package.module:factory") == 21
