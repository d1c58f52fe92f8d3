"""What a user may expect of any command on any input, and what was found instead.

A finding has a kind, a place that findings of one cause share, and the words that show it.
"""

import hashlib
import os
import re
import stat
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzzing.case import Command
from fuzzing.commands import SETTINGS
from qpipe.errors import printable
from qpipe.settings.options import options_of

TRACEBACK: Final = "traceback"
HANG: Final = "over 30 s"
MEMORY: Final = "over 4 GB"
CRASH: Final = "native crash"
LEFT: Final = "files left behind"
CHANGED: Final = "inputs changed"
LINES: Final = "more than one line"
UNNAMED: Final = "names no file"
DIFFERENT: Final = "silent difference"
STATUS: Final = "exit status"
KINDS: Final = (TRACEBACK, HANG, MEMORY, CRASH, LEFT, CHANGED, DIFFERENT, LINES, UNNAMED, STATUS)

ERROR: Final = "qpipe: error: "
_ROOTS: Final = ("qpipe", "passes")
_SAID = re.compile(
    r"qpipe: (warning|note|error): .*|.* \.\.\.|.*: (done in [0-9:]+|\d+/\d+ \(\d+%\), [0-9:]+ left"
    r"|\d+, [0-9:]+ so far)|.*: finished before|data '.*', (no splits|split '\w+').*|output '.*', .*: .*"
)
"""Lines of stderr that are qpipe's own: warnings, errors, progress."""


@dataclass(frozen=True)
class Finding:
    """What was found: its kind, where, and the words that show it."""

    kind: str
    place: str
    words: str


Snapshot = dict[str, tuple[int, str]]
"""Each path below a folder: its mode, and a digest of its content."""


def snapshot(folder: Path) -> Snapshot:
    found: Snapshot = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            digest = ""
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(path, folder)] = (mode, digest)
    return found


def judge_error(error: BaseException) -> Finding:
    """An exception that left the command line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if re.search(rf"/({'|'.join(_ROOTS)})/", frame.filename)]
    frame = (own or frames)[-1]
    inside = Path(frame.filename).as_posix().split("/")
    # Of other code its package, not where that lies.
    begins = [i + (part == "site-packages") for i, part in enumerate(inside) if part in (*_ROOTS, "site-packages")]
    start = max(begins, default=len(inside) - 1)
    place = f"{'/'.join(inside[start:])}:{frame.name}: {type(error).__name__}"
    return Finding(TRACEBACK, place, "".join(traceback.format_exception(error))[-3000:])


def judge_status(command: Command, status: object) -> list[Finding]:
    """0, 2 of bad input, and of validate 1 too."""
    if status in (0, 2) or (status == 1 and command.words[0] in ("validate", "run", "export")):
        return []
    return [Finding(STATUS, f"{command.words[0]}: {status}", f"exit status {status}")]


def judge_words(command: Command, status: int, said: str) -> list[Finding]:
    """Of an error one line, the last one, that names a file, an option or a key; of libraries no line at all."""
    found = []
    lines = said.splitlines()
    foreign = [line for line in lines if line.strip() and not _SAID.fullmatch(line)]
    if foreign:
        found.append(Finding(LINES, _alike(foreign[0]), "\n".join(foreign)[:2000]))
    # validate says in its table what differs.
    if status == 0 or (status == 1 and command.words[0] == "validate"):
        return found
    errors = [line for line in lines if line.startswith(ERROR)]
    if len(errors) != 1 or lines[-1] != errors[0]:
        return [*found, Finding(LINES, f"{command.words[0]}: {len(errors)} errors", said[:2000])]
    message = errors[0].removeprefix(ERROR)
    # Not onnxruntime's refusal to allocate what a network itself asks for.
    if "out of memory" in message or ("bad_alloc" in message and "onnxruntime can't run it" not in message):
        found.append(Finding(MEMORY, _alike(message), message))
    if re.search(r"[\x00-\x1f\x7f\x9b]", message):
        found.append(Finding(LINES, "control characters", message))
    if re.search(r"Error calling|Traceback|object has no attribute|NoneType", message):
        found.append(Finding(UNNAMED, "words: " + _alike(message), message))
    if not any(name in message for name in _names(command)) and not message.startswith(_given(command)):
        found.append(Finding(UNNAMED, _alike(message), message))
    return found


def judge_files(command: Command, status: int, before: Snapshot, after: Snapshot) -> list[Finding]:
    """Nothing but the named outputs is new or different, and these only where the command succeeded."""
    found = []
    verb = command.words[0]

    def may_write(path: str) -> bool:
        # A folder that is named holds what it likes, but for temporary files.
        inside = [out for out in command.outputs if path.startswith(f"{out}/")]
        return path in command.outputs or (bool(inside) and not Path(path).name.startswith("."))

    keeps = verb in ("finetune", "run")  # checkpoints, finished stages
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path):
            continue
        change = "is gone" if path not in after else "is new" if path not in before else "was changed"
        allowed = may_write(path) and (status != 2 or (keeps and not path.endswith((".onnx", ".html"))) or "/" in path)
        if not allowed:
            kind = LEFT if path not in before else CHANGED
            name = re.sub(r"\.[A-Za-z0-9_]{8}(?=/|$)", ".XXXXXXXX", path)
            found.append(Finding(kind, f"{verb}: {name} {change}", f"exit status {status}: {path} {change}"))
    return found


def _given(command: Command) -> tuple[str, ...]:
    """How a message begins that is about one of the words, or about an option by its name in a recipe."""
    words = [word or "." for word in command.words[1:]]
    keys = [option.name for settings in SETTINGS.get(command.words[0], ()) for option in options_of(settings)]
    # The data of a recipe are no word of the command.
    data = ("data '",) if command.words[0] == "run" else tuple(f"data '{printable(word)}' " for word in words)
    inside = (f"'{printable(word)}/" for word in words)
    return (*(f"{printable(word)}: " for word in [*words, *keys]), *data, *inside)


def _names(command: Command) -> Sequence[str]:
    """What an error may name: files among the words, options, keys of a recipe, and `run`'s own files."""
    files = [Path(word).name for word in command.words[1:] if word and not word.startswith("-")]
    long = [word[:300] for word in files if len(word) > 2]
    return [*long, "--", *(("[", "run/", "state.json") if command.words[0] == "run" else ())]


def _alike(message: str) -> str:
    """The message without what differs from case to case."""
    text = re.sub(r"(Error calling \w+ with).*", r"\1 …", message)
    text = re.sub(r"'[^']*'", "'…'", text)
    text = re.sub(r"[\w./-]+\.(onnx|npz|toml|checkpoint|png|data)\b", "FILE", text)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?|nan|inf", "#", text)[:120]
