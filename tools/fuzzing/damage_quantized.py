"""QDQ and exported files: fields, what qpipe says about them in metadata, bodies of functions, names of nodes."""

import json
from pathlib import Path
from random import Random
from typing import Any

import onnx
from onnx import helper

from fuzzing.case import Case
from fuzzing.chains import from_export, from_qdq
from fuzzing.networks import SHAPES
from fuzzing.protobuf import damage, messages
from fuzzing.seeds import QUANTIZERS
from fuzzing.values import STRINGS, damaged_bytes, damaged_json, text

NODE_KEYS = ("qpipe.bound", "qpipe.function", "qpipe.basis", "qpipe.codes_of", "qpipe.layout", "qpipe.observed")


def damaged_field(rng: Random, seeds: Path, folder: Path) -> Case:
    """One or two fields of the message of a QDQ file."""
    name, data, proto = _qdq(rng, seeds)
    _, _, donor = _qdq(rng, seeds)
    done = [damage(rng, proto, [donor]) for _ in range(rng.choice((1, 1, 1, 2)))]
    return _case(rng, seeds, folder, f"{name}: {'; '.join(done)}", proto, data)


def damaged_metadata(rng: Random, seeds: Path, folder: Path) -> Case:
    """What the file says about itself, at any depth."""
    name, data, proto = _qdq(rng, seeds)
    return _case(rng, seeds, folder, f"{name}: {_metadata(rng, proto)}", proto, data)


def damaged_function(rng: Random, seeds: Path, folder: Path) -> Case:
    """The body of a function of qpipe's, and what calls it."""
    name = rng.choice(QUANTIZERS)
    proto = onnx.load(seeds / f"{name}.qdq.onnx")
    calls = [node for node in proto.graph.node if node.domain]
    if not proto.functions:
        return damaged_field(rng, seeds, folder)
    target: Any = rng.choice([*proto.functions, *proto.functions, *calls[:1]])
    what = damage(rng, target)
    return _case(rng, seeds, folder, f"{name}: function: {what}", proto, "digits.npz")


def damaged_export(rng: Random, seeds: Path, folder: Path) -> Case:
    """An export's fields, metadata or bytes: inspected, validated beside its QDQ file, and drawn."""
    name = rng.choice([path.name for path in sorted(seeds.glob("*.int-*.onnx"))])
    proto = onnx.load(seeds / name)
    stem = name.split(".")[0].replace("io", "digits")
    content = None
    match rng.randrange(3):
        case 0:
            what = damage(rng, proto)
        case 1:
            what = _metadata(rng, proto)
        case _:
            content, what = damaged_bytes(rng, proto.SerializeToString()), "bytes"
    (folder / "net.onnx").write_bytes(content if content is not None else proto.SerializeToString())
    for file in (f"{stem}.npz", f"{stem}.qdq.onnx"):
        (folder / file).write_bytes((seeds / file).read_bytes())
    qdq = (f"{stem}.qdq.onnx",) if rng.random() < 0.7 else ()
    from fuzzing.case import Command

    commands = [
        Command(("inspect", "net.onnx")),
        Command(("validate", *qdq, "net.onnx", "--data", f"{stem}.npz")),
        Command(("report", "net.onnx", "-o", "page.html"), ("page.html",)),
        Command(("calibrate", "net.onnx", "--data", f"{stem}.npz", "-o", "made.onnx"), ("made.onnx",)),
        *from_export(rng, "net.onnx"),
    ]
    return Case(f"{name}: {what}", commands, independent=True)


def _qdq(rng: Random, seeds: Path) -> tuple[str, str, onnx.ModelProto]:
    """A QDQ file, and the data of its network."""
    name = rng.choice([*sorted(SHAPES), *QUANTIZERS, "trained", "digits"])
    data = name if name in SHAPES else "digits"
    return name, f"{data}.npz", onnx.load(seeds / f"{name}.qdq.onnx")


def _metadata(rng: Random, proto: onnx.ModelProto) -> str:
    own = [entry for entry in proto.metadata_props if entry.key.startswith("qpipe.")]
    inner = [e for part in messages(proto.graph) for e in getattr(part, "metadata_props", []) if e is not None]
    choice = rng.randrange(10)
    if inner and choice < 3:
        entry = rng.choice(inner)
        entry.value = rng.choice((text(rng), damaged_bytes(rng, entry.value.encode()).decode("utf-8", "replace")))
        return f"{entry.key} of a part is {entry.value!r:.40}"
    if choice < 4:
        key = rng.choice(NODE_KEYS)
        holder: Any = rng.choice(list(proto.graph.node) + list(proto.graph.value_info))
        holder.metadata_props.add(key=key, value=rng.choice((*STRINGS, "1", "[]", "{}", "[1, 2, 3]", "NHWC")))
        return f"{key} added to a part"
    if choice < 5 or not own:
        key = rng.choice(("certificate", "training", "plain", "binary", "io", "cut_tail", "preprocess", "quantization"))
        helper.set_model_props(proto, {**_props(proto), f"qpipe.{key}": damaged_json(rng, [{"a": [1, "b"]}])})
        return f"qpipe.{key} added"
    entry = rng.choice(own)
    if choice < 6:
        proto.metadata_props.remove(entry)
        return f"{entry.key} dropped"
    entry.value = damaged_json(rng, json.loads(entry.value))
    return f"{entry.key} is {entry.value!r:.200}"


def _props(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def _case(rng: Random, seeds: Path, folder: Path, what: str, proto: onnx.ModelProto, data: str) -> Case:
    from fuzzing.case import Command

    (folder / "net.qdq.onnx").write_bytes(proto.SerializeToString())
    (folder / "data.npz").write_bytes((seeds / data).read_bytes())
    chain = [Command(("inspect", "net.qdq.onnx")), *from_qdq(rng, "net.qdq.onnx", "data.npz")]
    if rng.random() < 0.2:
        words = ("calibrate", "net.qdq.onnx", "--data", "data.npz", "-o", "again.qdq.onnx", "--weight-bits", "4")
        chain.insert(1, Command(words, ("again.qdq.onnx",)))
    if rng.random() < 0.1:
        chain.insert(1, Command(("report", "net.qdq.onnx", "-o", "page.html"), ("page.html",)))
    return Case(what, chain, independent=True)
