"""Weights beside a model, checkpoints, recipes and the folder of a run."""

import json
import re
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any, Final

import onnx

from fuzzing.case import Case, Command
from fuzzing.chains import FORMATS, from_float
from fuzzing.networks import SHAPES
from fuzzing.values import STRINGS, damaged_bytes, damaged_json, floating, integer

LOCATIONS: Final = (
    "weights.bin", "./weights.bin", "../weights.bin", "/etc/hostname", "", ".", "sub/../weights.bin", "missing.bin",
    "net.onnx", "link.bin", "pipe.bin", "weights.bin\0", "w\n.bin",
)  # fmt: skip
RECIPE_VALUES: Final = (
    "true", "nan", "inf", "-1", "0", "1e400", "9" * 400, "[]", "{}", '""', '"x"', '"\\u0000"', "1979-05-27", "07:32:00",
    "[[1]]", "{a = 1}", '"../net.onnx"', '"digits"', '"os:system"', "4", "0.5", '["qdq", "qdq"]', '"/"', "'''\nx\n'''",
)  # fmt: skip


def external_data(rng: Random, seeds: Path, folder: Path) -> Case:
    """Where a model's weights are said to lie, and the file that they lie in."""
    name = rng.choice(sorted(SHAPES))
    proto = onnx.load(seeds / f"{name}.onnx")
    onnx.save_model(
        proto, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    (folder / "data.npz").write_bytes((seeds / f"{name}.npz").read_bytes())
    weights = folder / "weights.bin"
    if rng.random() < 0.2:
        weights.write_bytes(damaged_bytes(rng, weights.read_bytes()))
        what = "the file of weights"
    elif rng.random() < 0.1:
        weights.unlink()
        weights.mkdir()
        what = "a folder in the place of the weights"
    else:
        proto = onnx.load(folder / "net.onnx", load_external_data=False)
        what = _entry(rng, proto, folder)
        (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return Case(f"{name}: {what}", from_float(rng, "net.onnx", "data.npz"))


def _entry(rng: Random, proto: onnx.ModelProto, folder: Path) -> str:
    tensor = rng.choice([each for each in proto.graph.initializer if each.external_data])
    entry = rng.choice(tensor.external_data)
    match rng.randrange(8):
        case 0:
            tensor.external_data.remove(entry)
            return f"{entry.key} dropped"
        case 1:
            tensor.external_data.add(key=entry.key, value=rng.choice((entry.value, "0", "x")))
            return f"{entry.key} twice"
        case 2:
            tensor.dims[:] = [rng.choice((0, 1, 2**31, 2**62, -1)), *tensor.dims]
            return f"dims {list(tensor.dims)}"
        case 3:
            tensor.data_location = onnx.TensorProto.DEFAULT
            return "not external after all"
    if entry.key == "location":
        entry.value = rng.choice(LOCATIONS)
        if entry.value == "link.bin":
            (folder / "link.bin").symlink_to("/etc/hostname")
        if entry.value == "pipe.bin":
            import os

            os.mkfifo(folder / "pipe.bin")
    else:
        entry.value = rng.choice((str(integer(rng)), "-4", "1e3", "0x10", "", " 4", "٤", *STRINGS[:6]))
    return f"{entry.key} is {entry.value!r:.40}"


def damaged_checkpoint(rng: Random, seeds: Path, folder: Path) -> Case:
    """A safetensors file with JSON in its header: lengths, header, what it says of the run, tensors."""
    for file in ("untrained.qdq.onnx", "digits.npz"):
        shutil.copy(seeds / file, folder)
    content = (seeds / "digits.checkpoint").read_bytes()
    damaged, what = _damaged_safetensors(rng, content)
    (folder / "run.checkpoint").write_bytes(damaged)
    epochs = rng.choice(("1", "2"))
    words = ("finetune", "untrained.qdq.onnx", "--data", "digits.npz", "-o", "trained.qdq.onnx", "--epochs", epochs)
    run = Command((*words, "--checkpoint", "run.checkpoint", "--resume"), ("trained.qdq.onnx", "run.checkpoint"))
    return Case(what, [run])


def _damaged_safetensors(rng: Random, content: bytes) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = content[8 : 8 + length], content[8 + length :]
    parsed: dict[str, Any] = json.loads(header)
    match rng.randrange(7):
        case 0:
            return damaged_bytes(rng, content), "bytes"
        case 1:
            size = rng.choice((0, 1, 7, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))
            return struct.pack("<Q", size) + content[8:], f"a header of {size} bytes"
        case 2:
            flipped = bytearray(tensors)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return content[: 8 + length] + bytes(flipped), "a bit of a tensor"
        case 3:
            text, what = damaged_json(rng, parsed), "the header"
        case _:
            key = rng.choice(sorted(parsed["__metadata__"]))
            parsed["__metadata__"][key] = damaged_json(rng, _json(parsed["__metadata__"][key]))
            text, what = json.dumps(parsed), f"what it says of the {key}"
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + tensors, what


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def damaged_recipe(rng: Random, seeds: Path, folder: Path) -> Case:
    """Lines of a recipe: keys, values, tables, and the file as text."""
    for file in ("digits.onnx", "digits.npz"):
        shutil.copy(seeds / file, folder)
    text = (seeds / "recipe.toml").read_text(encoding="utf-8")
    what = ""
    for _ in range(rng.choice((1, 1, 2))):
        text, done = _damaged_toml(rng, text)
        what += done + "; "
    (folder / "recipe.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.05:
        content = damaged_bytes(rng, text.encode("utf-8", "surrogatepass"))
        (folder / "recipe.toml").write_bytes(content)
    exports = {f"run/model.{form}.onnx": "run/finetuned.qdq.onnx" for form in FORMATS}
    output = re.search(r'^output = "([^"\\]+)"', text, re.MULTILINE)
    return Case(what, [Command(("run", "recipe.toml"), (output[1] if output else "run",), exports)])


def _damaged_toml(rng: Random, text: str) -> tuple[str, str]:
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    key, equals, value = lines[at].partition(" = ")
    match rng.randrange(9):
        case 0:
            what = f"without {lines.pop(at)!r}"
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
            what = f"twice {lines[at]!r}"
        case 2:
            rng.shuffle(lines)
            what = "lines in another order"
        case 3:
            wrong = rng.choice(
                (".".join("a" * 20_000), "[" * 5000, "\0", "é = 1", "[model]", "[[export]]", "= 1", "\ufeff")
            )
            lines.insert(at, wrong)
            what = f"with {wrong!r:.30}"
        case 4 if equals:
            lines[at] = f"{key}s = {value}"
            what = f"{key}s in the place of {key}"
        case _:
            settings = [i for i, line in enumerate(lines) if " = " in line]
            if not settings:
                return text, "nothing"
            at = rng.choice(settings)
            key, _, value = lines[at].partition(" = ")
            new = (
                rng.choice(RECIPE_VALUES)
                if rng.random() < 0.7
                else rng.choice((str(integer(rng)), repr(floating(rng))))
            )
            lines[at] = f"{key} = {new}"
            what = f"{key} = {new:.40}"
    return "\n".join(lines) + "\n", what


def damaged_run(rng: Random, seeds: Path, folder: Path) -> Case:
    """The folder of a finished run, of which a file is damaged, gone or another's; it is run again and drawn."""
    for file in ("digits.onnx", "digits.npz", "recipe.toml"):
        shutil.copy(seeds / file, folder)
    shutil.copytree(seeds / "run", folder / "run")
    path = rng.choice(sorted((folder / "run").iterdir()))
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.9:
        path.write_text(damaged_json(rng, json.loads(content)), encoding="utf-8", errors="surrogatepass")
        what = f"{path.name}: JSON"
    elif rng.random() < 0.3:
        path.unlink()
        what = f"{path.name} is gone"
        if rng.random() < 0.3:
            path.mkdir()
            what = f"{path.name} is a folder"
    else:
        path.write_bytes(damaged_bytes(rng, content))
        what = f"{path.name}: bytes"
    report = Command(("report", "run", "-o", "page.html"), ("page.html",))
    run = Command(("run", "recipe.toml"), ("run",))
    return Case(what, [report, run, report] if rng.random() < 0.5 else [report], independent=True)
