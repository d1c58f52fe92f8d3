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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, Strict, model_validator

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
from qpipe.settings.skips import SkipSettings
from qpipe.settings.toml import about_file, read_toml, toml_key
from qpipe.settings.training import FLOAT_TEACHER, NO_TEACHER


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
        """A file that is exact without VNNI needs weights that were kept so; a plain one, that skips go."""
        if self.finetune is not None:
            resolve(self.finetune, strips=self.finetune.plain)
        if self.calibrate.cpu == "vnni" and self.export.cpu == "portable" and self.export.weights == "int8":
            raise ValueError(
                "[export] cpu: 'portable', expected 'vnni' as in [calibrate] (or weights = 'uint8', exact everywhere)"
            )
        if self.finetune and self.finetune.arithmetic == "float":
            raise ValueError("[finetune] arithmetic: 'float', but a recipe's network is quantized, expected 'mls'")
        if self.finetune and self.finetune.start == "random":
            raise ValueError("[finetune] start: 'random', expected it in [calibrate]: a recipe trains what that gives")
        if self.export.plain:
            _check_stripped({"calibrate": self.calibrate, "finetune": self.finetune})
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


def _check_stripped(stages: Mapping[str, SkipSettings | None]) -> None:
    """Raise ValueError where a plain file is asked for and no stage takes all skips out."""
    stripping = {name: stage.blocks for name, stage in stages.items() if stage is not None and stage.plain}
    if not stripping:
        raise ValueError("[export] plain: true, expected plain = true in [calibrate] or [finetune], where skips go")
    if "*" not in stripping.values():
        name, blocks = next(iter(stripping.items()))
        raise ValueError(f"[export] plain: true, but [{name}] blocks is '{blocks}', expected '*'")


def names_code(spec: str) -> bool:
    """Whether a model's or data's `path` names code rather than a file: built-in data, a factory, a zoo's network."""
    return spec == "digits" or names_factory(spec)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe; its paths come back relative to where the recipe lies.

    Raises:
        RecipeError: the file can't be read, is not TOML, or a key, type or value is wrong.
    """
    path = Path(path)
    values = read_toml(path, "a recipe")
    with about_file(path):
        return validated(Recipe, values, _key).relative_to(path.parent)


def _key(location: Sequence[int | str]) -> str:
    """A key as it stands in the file: `[calibrate] batches`, or `seed` at the top."""
    match location:
        case "layer", int(index), *keys:
            return ", ".join([f"[[layer]] {index + 1}", *map(str, keys)])
    return toml_key(location)


def _join(folder: Path, spec: str) -> str:
    return spec if names_code(spec) else str(folder / spec)
