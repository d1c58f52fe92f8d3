"""What an output may not be, and what it may not take the place of."""

import os
import socket
import stat
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import OutputError
from qpipe.ir.files.outputs import check_output, check_outputs_differ, target_of
from support.networks import build


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"), [("node", "a device"), ("fifo", "a FIFO"), ("socket", "a socket"), ("folder", "a folder")]
)
def test_what_is_no_file_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, linked: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "node":
        try:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    elif name == "fifo":
        os.mkfifo(name)
    elif name == "folder":
        Path(name).mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)
    if linked:
        Path("link").symlink_to(name)
        name = "link"
    before = os.lstat(name).st_mode
    for look in (target_of, check_output):
        with pytest.raises(OutputError, match=f"^{name}: is {kind}, expected the name of a file to write$"):
            look(name)
    assert os.lstat(name).st_mode == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("circle", "circle: can't be written: Too many levels of symbolic links"),
        ("file/out", "file/out: can't be written: Not a directory"),
        ("gone/out", "gone/out: the folder 'gone' does not exist"),
        ("n" * 256, "File name too long"),
        ("a\0b", "can't be written: embedded null byte"),
        ("", ".: is a folder"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("back")
    Path("back").symlink_to("circle")
    Path("file").touch()
    with pytest.raises(OutputError) as caught:
        target_of(name)
    assert message in str(caught.value)


def test_a_link_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone/out")
    with pytest.raises(OutputError, match=r"link: the folder '.*gone' does not exist"):
        target_of(tmp_path / "link")


@pytest.mark.parametrize("output", ["net.onnx", "./net.onnx", "soft", "hard", "sub/../net.onnx"])
def test_an_input_is_no_output_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("net.onnx").write_bytes(b"a model")
    Path("soft").symlink_to("net.onnx")
    Path("hard").hardlink_to("net.onnx")
    with pytest.raises(OutputError, match="is the input and the output, expected two files"):
        check_output(output, sources=(None, "digits", Path("net.onnx")))
    check_output("other.onnx", sources=("net.onnx",))
    Path("other.onnx").touch()
    check_output("other.onnx", sources=("net.onnx", 5, [1]))


def test_the_weights_beside_an_input_are_input(tmp_path: Path) -> None:
    model = build("(float[1] x) => (float[1] y) { y = Add(x, w) }", w=np.ones(1, np.float32))
    ir.save(model, tmp_path / "net.onnx", external_data="weights.bin", size_threshold_bytes=0)
    with pytest.raises(OutputError, match=r"weights\.bin: is the input and the output"):
        check_output(tmp_path / "weights.bin", sources=[tmp_path / "net.onnx"])


def test_data_in_a_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "data/cat").mkdir(parents=True)
    image, model = tmp_path / "data/cat/1.png", tmp_path / "data/net.onnx"
    check_output(image, sources=[tmp_path / "data"])
    for file in (image, model):
        file.touch()
    with pytest.raises(OutputError, match=r"1.png: is there already, in the folder '.*data' that is read"):
        check_output(image, sources=[tmp_path / "data"])
    check_output(model, sources=[tmp_path / "data"])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    for second in ("a", "link", "sub/../a"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="a: is the output and the checkpoint, expected two files"):
            check_outputs_differ(tmp_path / "a", tmp_path / second, "the output and the checkpoint")
    check_outputs_differ(tmp_path / "a", tmp_path / "b", "the output and the checkpoint")
