"""Command lines: every option of every command, as typer knows them, with values at and beyond their limits."""

import os
import shutil
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final, Literal, get_args, get_origin

from fuzzing.case import Case, Command
from fuzzing.commands import SETTINGS
from fuzzing.values import STRINGS, floating, integer
from qpipe.cli.options import flag
from qpipe.settings.options import Option, options_of

READY: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "inspect": (("inspect", "digits.onnx"), ()),
    "calibrate": (("calibrate", "digits.onnx", "--data", "digits.npz", "-o", "made.onnx"), ("made.onnx",)),
    "finetune": (
        ("finetune", "digits.qdq.onnx", "--data", "digits.npz", "-o", "made.onnx", "--epochs", "1"),
        ("made.onnx", "run.checkpoint"),
    ),
    "export": (("export", "digits.qdq.onnx", "-o", "made.onnx"), ("made.onnx",)),
    "validate": (("validate", "digits.onnx", "digits.qdq.onnx", "--data", "digits.npz"), ()),
    "energy": (("energy", "digits.onnx"), ()),
    "report": (("report", "trained.qdq.onnx", "-o", "page.html"), ("page.html",)),
    "run": (("run", "recipe.toml"), ("run",)),
    "bench": (("bench", "digits.onnx", "--repeats", "1", "--threads", "1"), ("picture.png", "picture.svg")),
}
"""A command line that works, and what it writes."""
SLOW: Final = 0.02
"""The share of `bench`, which starts processes."""
WORDS: Final = (
    "", "nan", "inf", "-inf", "1e400", "1,2", "1,,2", ",", "0", "-1", "1", "2", "3", "4", "8", "16", "1e-30", "1e30",
    "999999999999999999999", "0x10", "１", "1_000", "0.5", "conv*:weight_bits=4", "*:weight_clip=0", "[:a=1", "*",
)  # fmt: skip
PATHS: Final = (
    "missing.onnx", "", ".", "..", "digits.onnx", "digits.npz", "images", "no/such/folder.onnx", "digits.onnx/x",
    "pipe", "link.onnx", "loop.onnx", "digits.json", "\0", "a" * 300, "os:system", "os:missing", "missing:x", "digits",
    "torchvision:none", "timm:none", "text.onnx", "empty.onnx", "~", "-", "made.onnx", "recipe.toml", "run",
)  # fmt: skip


def damaged_options(rng: Random, seeds: Path, folder: Path) -> Case:
    """One to three options set, or words dropped, repeated or replaced."""
    _files(seeds, folder)
    verb = "bench" if rng.random() < SLOW else rng.choice([verb for verb in READY if verb != "bench"])
    ready, outputs = READY[verb]
    words = list(ready)
    for _ in range(rng.choice((1, 1, 2, 3))):
        words = _other_words(rng, verb, words)
    cut = [word.replace("\0", "") if "\0" in word else word for word in words]  # no process can be given one
    named = [word for flag, word in pairwise(cut) if flag in ("-o", "--output", "--checkpoint", "--picture")]
    return Case(" ".join(cut)[:500], [Command(tuple(cut), (*outputs, *named))])


def _other_words(rng: Random, verb: str, words: list[str]) -> list[str]:
    choice = rng.random()
    if choice < 0.7 and verb in SETTINGS:
        option = rng.choice(options_of(rng.choice(SETTINGS[verb])))
        name = flag(option.name)
        if bool in option.types:
            return [*words, rng.choice((name, name, name.replace("--", "--no-")))]
        return [*words, name, _value(rng, option)]
    if choice < 0.75:
        return [*words, rng.choice(("--json", "--data", "--layer", "--name", "--restart", "-o")), rng.choice(WORDS)]
    if len(words) == 1:
        return [*words, rng.choice((*PATHS, *WORDS))]
    at = rng.randrange(1, len(words))
    if choice < 0.8:
        return words[:at] + words[at + 1 :]
    if choice < 0.95:
        return [*words[:at], rng.choice((*PATHS, *WORDS)), *words[at + 1 :]]
    return [*words[:at], words[at], *words[at:]]


def _value(rng: Random, option: Option) -> str:
    choices = [word for kind in option.types if get_origin(kind) is Literal for word in get_args(kind)]
    if choices and rng.random() < 0.7:
        return str(rng.choice(choices))
    if rng.random() < 0.7:
        if int in option.types:
            return str(rng.choice((1, 2, 3, 4, 8, 16, integer(rng))))
        if float in option.types:
            return repr(rng.choice((0.1, 0.5, 1.0, 99.0, floating(rng))))
    if option.name in ("checkpoint", "teacher", "weights", "picture") and rng.random() < 0.7:
        return rng.choice(("run.checkpoint", *PATHS))
    return rng.choice((*WORDS, *PATHS, *STRINGS))


def _files(seeds: Path, folder: Path) -> None:
    names = ("digits.onnx", "digits.qdq.onnx", "digits.npz", "trained.qdq.onnx", "recipe.toml")
    for name in names:
        shutil.copy(seeds / name, folder)
    shutil.copy(seeds / "digits.onnx", folder / "digits.json")
    (folder / "text.onnx").write_text("ir_version: 10")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "images").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link.onnx").symlink_to("digits.onnx")
    (folder / "loop.onnx").symlink_to("loop.onnx")
