"""Which stages of a pipeline are finished: `state.json` in the output folder.

A stage is finished while the hash of its inputs and arguments (its *key*) and the content of its output are those that
were recorded when it ended. Whatever changes, in the recipe, the model, the data or an output, is so done again, and
everything after it whose own inputs come out different.
"""

import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

import qpipe
from qpipe.errors import OutputError, first_problem, one_line
from qpipe.ir.files.external import external_files
from qpipe.ir.files.write import atomic_path

STATE_FILE: Final = "state.json"


class Finished(BaseModel):
    """A stage that ended: what went in, what came out, and how long it took."""

    model_config = ConfigDict(frozen=True)

    key: str
    output: str
    output_hash: str
    seconds: float


class _Content(BaseModel):
    """written_by: what tells the record from any other JSON. made: the files that runs here wrote, or were about to."""

    model_config = ConfigDict(extra="forbid")

    written_by: Literal["qpipe run"]
    made: list[str] = []
    finished: dict[str, Finished] = {}
    begun: dict[str, str] = {}


class State:
    """The stages of one output folder, written to the disk at every change.

    Raises OutputError where the folder's record is damaged, or none of ours: it stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._content = _read(folder / STATE_FILE)

    def made(self, file: Path) -> bool:
        """Whether a run in this folder wrote the file, or was about to: then it may be written again."""
        return file.name in self._content.made

    def forget(self) -> None:
        """Record that no stage is finished; whose the files are is still known."""
        self._content.finished.clear()
        self._content.begun.clear()
        self._write()

    def finished(self, stage: str, key: str) -> Finished | None:
        """The record of `stage`, where it ended with this key and its output still is what it was."""
        record = self._content.finished.get(stage)
        if record is None or record.key != key:
            return None
        return record if fingerprint(self._folder / record.output) == record.output_hash else None

    def was_begun(self, stage: str, key: str) -> bool:
        """Whether `stage` was begun with this key and did not end: its checkpoint may be taken up."""
        return self._content.begun.get(stage) == key

    def begin(self, stage: str, key: str, writes: Iterable[Path]) -> None:
        """Record that `stage` runs and will write these files, and that its older output counts no more."""
        self._content.made = list(dict.fromkeys([*self._content.made, *(file.name for file in writes)]))
        self._content.finished.pop(stage, None)
        self._content.begun[stage] = key
        self._write()

    def end(self, stage: str, key: str, output: Path, seconds: float) -> None:
        """Record that `stage` ended and wrote `output`, a path in the folder.

        Where that fails, as on a full disk, it warns: the output is there, and a rerun makes it once more.
        """
        self._content.begun.pop(stage, None)
        self._content.finished[stage] = Finished(
            key=key, output=output.name, output_hash=fingerprint(output), seconds=round(seconds, 3)
        )
        try:
            self._write()
        except OutputError as error:
            warnings.warn(f"{error}; a rerun does the stage {stage} again", stacklevel=2)

    def _write(self) -> None:
        write_json(self._folder / STATE_FILE, self._content.model_dump(mode="json"))


def finished_stages(folder: Path) -> dict[str, Finished]:
    """The stages that ended, in order, with what they wrote; none where the folder has no record."""
    return _read(folder / STATE_FILE).finished


def stage_key(stage: str, inputs: Mapping[str, str], arguments: JsonValue) -> str:
    """One hash of a stage's input fingerprints and arguments, and of qpipe's version."""
    what = {"qpipe": qpipe.__version__, "stage": stage, "inputs": dict(inputs), "arguments": arguments}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """What a file or folder holds.

    A file: SHA-256 of its content, and of the files of weights that an `.onnx` names. A folder: names, sizes and
    times of its files, because reading millions of images would take longer than it saves. Nothing there: "missing".
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                status = file.stat()
                digest.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    if not path.is_file():
        return "missing"
    files = [path, *external_files(path)] if path.suffix == ".onnx" else [path]
    return "+".join(_file_hash(file) if file.is_file() else "missing" for file in files)


def write_json(path: Path, value: JsonValue) -> None:
    """Write `value` beside `path` and rename; OutputError where that fails."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _file_hash(path: Path) -> str:
    status = path.stat()
    return _content_hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _content_hash(path: Path, _size: int, _mtime_ns: int) -> str:
    """The hash of a file, computed once a process: every stage asks for that of the data."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> _Content:
    """The recorded stages; none where there is no file, OutputError where it is no record."""
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"{path}: is no file, expected the record of a `qpipe run`")
        return _Content.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Content(written_by="qpipe run")
    except ValidationError as error:
        raise OutputError(f"{path}: no record of a `qpipe run`, or a damaged one: {first_problem(error)}") from None
    except OSError as error:
        raise OutputError(f"{path}: can't be read: {one_line(error)}") from error
