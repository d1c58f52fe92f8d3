import onnx_ir as ir
import pytest

from qpipe.data import Preprocess
from qpipe.data.carried import carried_preprocess, store_preprocess
from qpipe.errors import ModelError
from qpipe.ir.files.metadata import PREPROCESS, set_json


@pytest.fixture
def model() -> ir.Model:
    return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)


@pytest.mark.parametrize(
    "settings",
    [
        Preprocess(),
        Preprocess(mean=(0.5,), std=(0.25, 0.5, 1), resize=256, crop=224, color="BGR", layout="NHWC", pixel_max=255),
    ],
)
def test_what_is_stored_is_carried(model: ir.Model, settings: Preprocess) -> None:
    assert carried_preprocess(model) is None
    store_preprocess(model, settings)
    assert carried_preprocess(model) == settings
    assert hash(carried_preprocess(model)) == hash(settings)


def test_a_wrong_key_is_named(model: ir.Model) -> None:
    set_json(model, PREPROCESS, {"zoom": 2})
    with pytest.raises(ModelError, match=r"'qpipe\.preprocess': preprocessing has no setting 'zoom'"):
        carried_preprocess(model)
    set_json(model, PREPROCESS, {"std": [0]})
    with pytest.raises(ModelError, match=r"'qpipe\.preprocess': preprocessing std \[0\]: expected numbers above 0"):
        carried_preprocess(model)
