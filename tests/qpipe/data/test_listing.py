"""What is in a folder: nothing hidden, no image twice, and nothing that is no file."""

import os
from pathlib import Path

import pytest

from qpipe.data import open_data
from qpipe.data.listing import list_all, list_folder
from qpipe.errors import DataError
from support.images import write_image


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git/x", "__MACOSX/a", "@eaDir", "deep/.thumbs/more"])
def test_hidden_folders_are_left_out_at_every_depth(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "a" / name / "1-copy.png")
    write_image(tmp_path / "a" / "._1.png")
    write_image(tmp_path / name / "2.png")
    (tmp_path / "deep").mkdir(exist_ok=True)
    write_image(tmp_path / "deep" / "3.png")
    source = open_data(tmp_path)
    assert source.class_names == ("a", "deep")
    assert source.labels.tolist() == [0, 1]


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "b" / "1.png")
    write_image(tmp_path / "data" / "a" / "1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "data" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "b" / "1.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere" / "b")
    assert open_data(tmp_path / "data").labels.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("target", ["{}/a", "{}", "."])
def test_a_link_that_leads_back_is_refused(tmp_path: Path, target: str) -> None:
    write_image(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(target.format(tmp_path))
    with pytest.raises(DataError, match=r"^folder '.*/loop.*' leads back to '.*', expected folders that end$"):
        open_data(tmp_path)


@pytest.mark.parametrize("where", ["a/b", "a/1.png", "b"])
def test_a_link_that_leads_to_nothing_is_refused(tmp_path: Path, where: str) -> None:
    write_image(tmp_path / "a" / "0.png")
    (tmp_path / where).symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"^'{tmp_path / where}' is a link that leads to nothing, expected a folder"):
        open_data(tmp_path)


def test_a_class_folder_that_leads_to_itself(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "0.png")
    (tmp_path / "b").symlink_to("b")
    with pytest.raises(DataError, match=r"/b' can't be read: Too many levels of symbolic links$"):
        open_data(tmp_path)


@pytest.mark.parametrize("deep", [False, True])
def test_a_pipe_called_like_an_image_is_refused(tmp_path: Path, deep: bool) -> None:
    write_image(tmp_path / "a" / "0.png")
    pipe = tmp_path / "a" / ("deep/1.png" if deep else "1.png")
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=rf"^image '{pipe}' is a named pipe, expected a file$"):
        open_data(tmp_path)


def test_a_device_called_like_an_image_is_refused(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "0.png", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root may make a device")
    with pytest.raises(DataError, match=r"0\.png' is a device, expected a file$"):
        list_folder(tmp_path)


def test_folders_that_are_deep(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(300):
        folder = folder / "a"
    write_image(folder / "1.png")
    assert list_all(tmp_path).images == [str(folder / "1.png")]


def test_other_files_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    for name in ("1.heic", "2.HEIC", "notes.txt", "LICENSE", "b.npy"):
        (tmp_path / "a" / name).write_text("")
    assert dict(list_all(tmp_path / "a").others) == {".heic": 2, ".txt": 1, "": 1, ".npy": 1}
    line = open_data(tmp_path).found.line()
    assert "; not read: 2 .heic and 1 " in line
    assert line.endswith(" files, 2 more")
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(
        DataError, match=r"^class folder '.*/a' holds no images \(2 \.heic and 1 .*, 2 more\), expected"
    ):
        open_data(tmp_path)


def test_one_folder_is_no_two_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DataError, match=r"^class folders '.*/a' and '.*/b' are one folder, expected two$"):
        open_data(tmp_path)
