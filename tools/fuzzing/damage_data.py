"""Data: arrays with another shape, type or content, damaged headers and zip structure, and folders of images."""

import contextlib
import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from PIL import Image

from fuzzing.case import Case, Command
from fuzzing.seeds import arrays, make_images
from fuzzing.values import STRINGS, damaged_bytes

DTYPES: Final = (
    "<f2",
    "<f4",
    "<f8",
    ">f4",
    "i1",
    "<i2",
    "<i4",
    "<i8",
    "u1",
    "<u2",
    "<u8",
    "?",
    "<c8",
    "U5",
    "S3",
    "<M8[s]",
)
KEYS: Final = (
    "images", "x", "labels", "class_names", "train_images", "train_labels", "test_images", "val_labels", "y", "arr_0",
)  # fmt: skip
FORMATS: Final = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")
MODES: Final = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "I", "F", "I;16")


def damaged_arrays(rng: Random, seeds: Path, folder: Path) -> Case:
    """Other arrays under the keys, or other keys."""
    content: dict[str, Any] = arrays("digits")
    what = "; ".join(_array(rng, content) for _ in range(rng.choice((1, 1, 2))))
    try:
        np.savez(folder / "data.npz", **content, allow_pickle=True)
    except (TypeError, ValueError):
        np.savez(folder / "data.npz", *content.values())
    return _case(rng, seeds, folder, what, "data.npz")


def _array(rng: Random, content: dict[str, Any]) -> str:
    key = rng.choice(sorted(content))
    array = np.atleast_1d(content[key])
    match rng.randrange(9):
        case 0:
            del content[key]
            content.setdefault("labels", np.arange(16))
            return f"without {key}"
        case 1:
            new = rng.choice((*KEYS, *[name for name in STRINGS if len(name) < 100 and "\0" not in name and name]))
            content[new] = content.pop(key)
            return f"{key} is called {new!r}"
        case 2:
            dtype = rng.choice(DTYPES)
            # An object or a word, from the draw before, is no number.
            with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError):
                content[key] = array.astype(dtype)
            return f"{key} as {dtype}"
        case 3:
            content[key] = rng.choice(
                (array[:0], array[:1], array[:7], array[None], array.reshape(-1), array[..., None])
            )
            return f"{key}: shape {content[key].shape}"
        case 4:
            content[key] = np.full(array.shape, rng.choice((np.nan, np.inf, 1e30, -1.0, 0.5, 1e-40)), np.float32)
            return f"{key}: all {np.unique(content[key])}"
        case 5:
            content[key] = np.full(array.shape, rng.choice((-1, 0, 3, 4, 255, 256, 2**31, 2**62)), np.int64)
            return f"{key}: all {np.unique(content[key])}"
        case 6:
            content[key] = np.array([{"a": 1}] * len(array), dtype=object)
            return f"{key}: objects"
        case 7:
            content[rng.choice(KEYS)] = rng.choice((array, np.array(["a", "b"]), np.array(3), np.zeros(0)))
            return "one more array"
    content["class_names"] = np.array(rng.choice((["a"], list("abcd"), list("abcde"), ["a", "a"], [STRINGS[6]] * 4)))
    return f"class names {content['class_names'].tolist()}"


def damaged_zip(rng: Random, seeds: Path, folder: Path) -> Case:
    """The file's bytes, the entries of the archive, or the header of an array."""
    content = (seeds / "digits.npz").read_bytes()
    match rng.randrange(4):
        case 0:
            content, what = damaged_bytes(rng, content), "bytes"
        case 1:
            content, what = _rewritten(rng, content, entry=True), "an entry of the archive"
        case _:
            content, what = _rewritten(rng, content, entry=False), "the header of an array"
    (folder / "data.npz").write_bytes(content)
    return _case(rng, seeds, folder, what, "data.npz")


def _rewritten(rng: Random, content: bytes, *, entry: bool) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    names = list(members.items())
    if entry:
        match rng.randrange(4):
            case 0:
                names.append((name, members[name]))
            case 1:
                names.append((rng.choice(("../out.npy", "/abs.npy", "a/", "images", "x.txt", "labels.npy/x")), b"x"))
            case 2:
                names = [(key, damaged_bytes(rng, member)) for key, member in names]
            case _:
                names = [(key, b"" if key == name else member) for key, member in names]
    else:
        names = [(key, _header(rng, member) if key == name else member) for key, member in names]
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", method) as archive:  # names twice
        for key, member in names:
            archive.writestr(key, member)
    return file.getvalue()


def _header(rng: Random, member: bytes) -> bytes:
    """Another shape, type or order, or damaged text, with its length right or wrong."""
    size = int.from_bytes(member[8:10], "little")
    text, values = member[10 : 10 + size].decode("latin1"), member[10 + size :]
    dtype, shape = text.split("'descr': ")[1].split(",")[0], text.split("'shape': ")[1].rstrip(" \n}").rstrip(", ")
    match rng.randrange(6):
        case 0:
            text = text.replace(
                shape, rng.choice(("(2**40,)", "(99999999999,)", "(-1,)", "()", "(16,0)", "(16,,)", "5", "(1e3,)"))
            )
        case 1:
            text = text.replace(
                dtype, rng.choice(("'O'", "'<f4'", "'V8'", "'x'", "[('a','<i4')]", "'|S0'", "None", "'<u99'"))
            )
        case 2:
            text = text.replace("False", rng.choice(("True", "None", "1")))
        case 3:
            text = damaged_bytes(rng, text.encode("latin1")).decode("latin1")
        case 4:
            text = "(" * 3000 + text
        case _:
            return member[:6] + bytes([rng.randrange(5), rng.randrange(3)]) + member[8:]
    raw = text.encode("latin1")
    length = len(raw) if rng.random() < 0.8 else rng.randrange(2**16)
    return member[:8] + length.to_bytes(2, "little") + raw + values


def damaged_images(rng: Random, seeds: Path, folder: Path) -> Case:
    """One image in another format or mode, damaged, or not an image; names and folders."""
    make_images(folder / "images")
    files = sorted((folder / "images").rglob("*.png"))
    what = "; ".join(_image(rng, rng.choice(files), folder / "images") for _ in range(rng.choice((1, 1, 2))))
    return _case(rng, seeds, folder, what, "images")


def _image(rng: Random, path: Path, root: Path) -> str:
    match rng.randrange(8):
        case 0 if path.is_file():
            path.write_bytes(damaged_bytes(rng, path.read_bytes()))
            return f"{path.name}: bytes"
        case 1 | 2:
            mode, form = rng.choice(MODES), rng.choice(FORMATS)
            size = rng.choice(((8, 8), (1, 1), (9, 7), (300, 2), (8, 8)))
            file = path.with_suffix(f".{form}")
            try:
                Image.effect_noise(size, 50).convert(mode).save(file)
            except (OSError, ValueError, KeyError):
                file.write_bytes(b"")
            return f"an image of mode {mode}, {form}, {size}"
        case 3:
            path.unlink(missing_ok=True)
            rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path.name), lambda: None))()
            return "no regular file, or none"
        case 4:
            shutil.rmtree(path.parent, ignore_errors=True)
            return "a class folder is gone"
        case 5:
            names = [name for name in STRINGS if name and len(name) < 200 and "\0" not in name and "/" not in name]
            new = rng.choice((*names, ".hidden", "Test", "val", "train"))
            with_parent = rng.choice((path.parent, path.parent.parent))
            if with_parent.is_dir() and not (with_parent.parent / new).exists():
                with_parent.rename(with_parent.parent / new)
            return f"a folder is called {new!r}"
        case 6:
            extra = rng.choice((path.parent, path.parent.parent, root))
            if extra.is_dir():
                (extra / rng.choice(("notes.txt", "x.png", ".x.png"))).write_bytes(b"no image")
            return "one more file"
    if path.is_file():
        header = path.read_bytes()
        wide = rng.choice((0, 1, 2**16, 2**31 - 1)).to_bytes(4, "big")
        path.write_bytes(header[:16] + wide + header[20:])
    return "another width in a PNG's header"


def _case(rng: Random, seeds: Path, folder: Path, what: str, data: str) -> Case:
    """One command that reads the data; the rest would say the same."""
    for file in ("digits.onnx", "digits.qdq.onnx", "digits.int-qoperator.onnx"):
        shutil.copy(seeds / file, folder)
    made = ("-o", "made.onnx")
    commands = {
        "calibrate": ("calibrate", "digits.onnx", "--data", data, *made),
        "finetune": ("finetune", "digits.qdq.onnx", "--data", data, *made, "--epochs", "1", "--batch-size", "8"),
        "export": ("export", "digits.qdq.onnx", "--data", data, *made),
        "validate": ("validate", "digits.onnx", "digits.qdq.onnx", "digits.int-qoperator.onnx", "--data", data),
    }
    chosen = rng.sample(sorted(commands), 2)
    return Case(
        what, [Command(commands[verb], ("made.onnx",) if "-o" in commands[verb] else ()) for verb in chosen], True
    )
