"""Arrays by the names of a network's inputs."""

import numpy as np
import pytest

from qpipe.data import Preprocess, open_data
from qpipe.data.inputs import Input
from qpipe.errors import DataError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
INPUTS = [Input("frame", ("N", 4), F32), Input("state/h:0", (2, "N", 3), F32), Input("rate", (), I64)]
RNG = np.random.default_rng(0)
ARRAYS = {
    "frame": RNG.standard_normal((6, 4)).astype(np.float32),
    "state/h:0": RNG.standard_normal((6, 2, 1, 3)),
    "rate": np.array(16000),
}


def read(source, size=4, **options):
    return list(source.batches(size, **options))


def check(source):
    first, second = read(source)
    assert (len(source), len(first), len(second)) == (6, 4, 2)
    np.testing.assert_array_equal(first.inputs["frame"], ARRAYS["frame"][:4])
    assert first.inputs["state/h:0"].dtype == np.float32
    np.testing.assert_array_equal(second.inputs["rate"], [16000, 16000])


def test_a_mapping_and_an_npz(tmp_path):
    check(open_data(ARRAYS, inputs=INPUTS))
    np.savez(tmp_path / "d.npz", **{name.replace("/", "_").replace(":", "_"): a for name, a in ARRAYS.items()})
    check(open_data(tmp_path / "d.npz", inputs=INPUTS))


def test_a_folder_of_arrays(tmp_path):
    for name, array in ARRAYS.items():
        np.save(tmp_path / (name.replace("/", "_").replace(":", "_") + ".npy"), array)
    np.save(tmp_path / "labels.npy", np.arange(6))
    source = open_data(tmp_path, inputs=INPUTS)
    check(source)
    assert source.labels.tolist() == list(range(6))
    assert source.found.line().endswith(
        "6 samples ('frame' float32 [4], 'state/h:0' float32 [2, 1, 3], 'rate' int64 []); labels 0 to 5"
    )


def test_an_array_in_a_file_of_its_own(tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS["frame"])
    source = open_data(tmp_path / "x.npy")
    assert source.labels is None
    np.testing.assert_array_equal(next(source.batches(6)).inputs, ARRAYS["frame"])


def test_splits(tmp_path):
    for split, count in (("train", 5), ("test", 3)):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "a.npy", np.zeros((count, 2), np.float32))
        np.save(tmp_path / split / "b.npy", np.zeros((count, 2), np.int32))
        np.save(tmp_path / split / "labels.npy", np.zeros(count, np.int64))
    inputs = [Input("a", ("N", 2), F32), Input("b", ("N", 2), I64)]
    assert [len(open_data(tmp_path, split, inputs=inputs)) for split in ("train", "test", "val")] == [5, 3, 3]
    arrays = {f"{split}_{name}": np.zeros((2, 2), np.float32) for split in ("train", "test") for name in ("a", "b")}
    source = open_data(arrays, "test", inputs=[Input("a", ("N", 2), F32), Input("b", ("N", 2), F32)])
    assert source.found.splits == ("train", "test")


def test_an_image_beside_numbers_is_preprocessed():
    images = RNG.integers(0, 256, (3, 5, 6, 3), np.uint8)
    inputs = [Input("image", ("N", 3, 5, 6), F32), Input("scale", ("N", 1), F32)]
    settings = Preprocess(mean=(0.5,))
    source = open_data({"image": images, "scale": np.ones((3, 1))}, preprocess=settings, inputs=inputs)
    (batch,) = read(source)
    np.testing.assert_array_equal(batch.inputs["image"], settings(images))


def test_an_only_input_by_its_name():
    source = open_data({"tokens": np.arange(12).reshape(3, 4)}, inputs=[Input("tokens", ("N", 4), I64)])
    assert source.image_shape == (4,)
    assert read(source)[0].inputs["tokens"].tolist()[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": None}, r"input 'rate' takes int64 \[\], but no array has its name; found 'frame', 'state/h:0'"),
        ({"frame": np.zeros((5, 4), np.float32)}, "'state/h:0' has 6 samples, others have 5"),
        ({"rate": np.full(6, 0.5)}, r"'rate': values are float64, but the input 'rate' takes int64"),
        ({"frame": np.full((6, 4), np.nan)}, "'frame': sample 0 has the value nan"),
        ({"frame": np.zeros((6, 0), np.float32)}, "'frame': shape is"),
        ({"labels": np.arange(3)}, "3 labels for 6 samples"),
    ],
)
def test_arrays_that_are_none(change, message):
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    with pytest.raises(DataError, match=message):
        open_data(arrays, inputs=INPUTS)


def test_a_damaged_file_of_a_folder(tmp_path):
    (tmp_path / "frame.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"frame.npy' can't be read"):
        open_data(tmp_path, inputs=[INPUTS[0]])


def test_a_stream_of_mappings():
    items = [{"a": np.zeros((2, 3), np.float32), "b": np.ones((2, 1)), "labels": np.array([0, 1])} for _ in range(3)]
    source = open_data(iter(items))
    assert source.sample_shapes == {"a": (3,), "b": (1,)}
    first, second = read(source)
    assert (len(first), len(second), second.labels.tolist()) == (4, 2, [0, 1])
    assert first.inputs["b"].dtype == np.float32
    broken = [{"a": np.zeros((2, 3)), "b": np.ones((3, 1))}]
    with pytest.raises(DataError, match=r"an item has 'a' \[2, 3\], 'b' \[3, 1\], expected arrays by name"):
        open_data(iter(broken))
