"""recipe.toml: a whole pipeline in one validated file.

    output = "run"            # folder of everything that is written
    seed = 0

    [model]
    path = "resnet20.onnx"

    [data]
    path = "cifar10.npz"

    [calibrate]               # each key is an option of `qpipe calibrate`
    weight_bits = 8

    [[layer]]                 # as often as needed: what some layers are told
    match = "layer3.*"        # names of `qpipe inspect`
    weight_bits = 4

    [task]                    # what the network is for, where its outputs and the labels leave a choice
    output_name = "logits"
    loss = "cross-entropy"
    metric = "top-1"

    [finetune]                # without this table nothing is fine-tuned
    epochs = 1

    [export]
    formats = ["qoperator", "integer", "qdq"]

Paths are relative to the recipe's own folder. An unknown key is an error that suggests the near name.
"""

import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, Strict, model_validator

from qpipe.errors import RecipeError, one_line
from qpipe.factories import names_factory
from qpipe.settings import (
    CalibrateSettings,
    DataSettings,
    ExportsSettings,
    FinetuneSettings,
    LayerSettings,
    ModelSettings,
    PreprocessSettings,
    SeedSettings,
    TaskSettings,
    ValidateSettings,
    validated,
)
from qpipe.settings.recipes import resolve
from qpipe.settings.training import FLOAT_TEACHER, NO_TEACHER

LARGEST: Final = 1 << 20
"""Bytes of a recipe at most; one that says everything has some thousands."""


MOST_DOTS: Final = 200
"""Dots in a line of a recipe at most, in keys and numbers."""


class Recipe(SeedSettings):
    """A pipeline: float model, data, and the arguments of each stage."""

    output: str
    model: ModelSettings
    data: DataSettings
    preprocess: PreprocessSettings = PreprocessSettings()
    # Made when it is needed: its checks load the weight formats.
    calibrate: CalibrateSettings = Field(default_factory=CalibrateSettings)
    layers: Annotated[tuple[LayerSettings, ...], Strict(False), Field(alias="layer")] = ()
    task: TaskSettings = TaskSettings()
    finetune: FinetuneSettings | None = None
    export: ExportsSettings = ExportsSettings()
    # pydantic's models have a method named validate, so the field has another name than the table.
    validation: Annotated[ValidateSettings, Field(alias="validate")] = ValidateSettings()

    @model_validator(mode="after")
    def _pairs_agree(self) -> Self:
        """A file that is exact without VNNI needs weights that were kept so; a plain one, training without skips."""
        if self.finetune is not None:
            resolve(self.finetune, strips=self.finetune.plain)
        if self.calibrate.cpu == "vnni" and self.export.cpu == "portable" and self.export.weights == "int8":
            raise ValueError(
                "[export] cpu: 'portable', expected 'vnni' as in [calibrate] (or weights = 'uint8', exact everywhere)"
            )
        if self.export.plain and not (self.finetune and self.finetune.plain):
            raise ValueError("[export] plain: true, expected [finetune] plain = true, which trains the skips away")
        if self.export.plain and self.finetune and self.finetune.blocks != "*":
            raise ValueError(f"[export] plain: true, but [finetune] blocks is '{self.finetune.blocks}', expected '*'")
        return self

    def relative_to(self, folder: Path) -> Self:
        """This recipe with its paths taken from `folder`."""
        weights, finetune = self.model.weights, self.finetune
        if finetune is not None and finetune.teacher not in (None, FLOAT_TEACHER, NO_TEACHER):
            finetune = finetune.model_copy(update={"teacher": _join(folder, str(finetune.teacher))})
        model = {"path": _join(folder, self.model.path), "weights": weights and _join(folder, weights)}
        return self.model_copy(
            update={
                "output": _join(folder, self.output),
                "model": self.model.model_copy(update=model),
                "data": self.data.model_copy(update={"path": _join(folder, self.data.path)}),
                "finetune": finetune,
            }
        )


def names_code(spec: str) -> bool:
    """Whether a model's or data's `path` names code rather than a file: built-in data, a factory, a zoo's network."""
    return spec == "digits" or names_factory(spec)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe; its paths come back relative to where the recipe lies.

    Raises:
        RecipeError: the file can't be read, is not TOML, or a key, type or value is wrong.
    """
    path = Path(path)
    text = _read(path)
    for number, line in enumerate(text.splitlines(), 1):
        # The time that a dotted key takes grows with the square of its length: minutes for 50,000 dots.
        if (dots := line.partition("#")[0].count(".")) > MOST_DOTS:
            raise RecipeError(f"{path}: line {number} has {dots:,} dots, expected keys of one or two parts")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, and nesting, are no TOML errors
        raise RecipeError(f"{path}: not valid TOML: {one_line(error)}") from error
    with about_recipe(path):
        return validated(Recipe, values, _key).relative_to(path.parent)


@contextmanager
def about_recipe(path: str | Path) -> Iterator[None]:
    """Let a RecipeError, which a stage may raise as well, name the recipe that its value is from."""
    try:
        yield
    except RecipeError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise RecipeError(f"{path}: {error}") from error


def _read(path: Path) -> str:
    """The file's text. Raises RecipeError; a pipe or a device is not even opened, since it may never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecipeError(f"{path}: is {'a directory' if path.is_dir() else 'no file'}, expected a recipe")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise RecipeError(f"{path}: cannot be read ({one_line(error)}), expected a recipe") from error
    if len(content) > LARGEST:
        raise RecipeError(f"{path}: has more than {LARGEST:,} bytes, expected a recipe")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8, expected a TOML file") from error


def _key(location: Sequence[int | str]) -> str:
    """A key as it stands in the file: `[calibrate] batches`, or `seed` at the top."""
    *tables, last = [part for part in location if isinstance(part, str)]
    match location:
        case "layer", int(index), *keys:
            return ", ".join([f"[[layer]] {index + 1}", *map(str, keys)])
    return f"[{'.'.join(tables)}] {last}" if tables else last


def _join(folder: Path, spec: str) -> str:
    return spec if names_code(spec) else str(folder / spec)
