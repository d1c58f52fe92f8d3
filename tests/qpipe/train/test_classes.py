import numpy as np
import pytest

from qpipe.data import Preprocess, Source, open_data
from qpipe.errors import DataError
from qpipe.train.classes import check_classes
from qpipe.train.executor import Executor
from support.networks import Network
from support.quantize import quantized


@pytest.fixture(scope="module")
def executor() -> Executor:
    net = Network(3, 8, 8)
    y = net.head(net.op("Relu", net.conv("x", 3, 4)), 4, 4)
    return Executor(quantized(net.model(y), net.inputs()))


def labelled(largest: int, names: int | None = None) -> Source:
    images = np.zeros((8, 8, 8, 3), np.uint8)
    labels = np.minimum(np.arange(8), largest)
    data = {"images": images, "labels": labels}
    if names is not None:
        data["class_names"] = np.array([f"class {index}" for index in range(names)])
    return open_data(data, "train", Preprocess())


@pytest.mark.parametrize(("largest", "names"), [(3, None), (3, 4), (1, 4)])
def test_as_many_classes_as_outputs(executor: Executor, largest: int, names: int | None) -> None:
    check_classes(executor, labelled(largest, names))


@pytest.mark.parametrize(
    ("largest", "names", "classes"),
    [
        (4, None, 5),  # more classes than outputs
        (2, None, 3),  # fewer
        (2, 3, 3),
        (3, 5, 5),
    ],
)
def test_more_or_fewer_are_refused(executor: Executor, largest: int, names: int | None, classes: int) -> None:
    message = f"{classes} classes .the largest label is {largest}., but the network has 4 classes"
    with pytest.raises(DataError, match=message):
        check_classes(executor, labelled(largest, names))


def test_a_stream_is_not_read_for_it(executor: Executor) -> None:
    stream = iter([(np.zeros((2, 3, 8, 8), np.float32), np.array([0, 9]))])
    source = open_data(stream, "train", Preprocess())
    check_classes(executor, source)
    assert len(next(source.batches(2))) == 2
