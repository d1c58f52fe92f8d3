"""A recipe's stages, in order: calibrate -> finetune -> export, once for each format -> validate.

    float.onnx              only where the model is PyTorch: what everything starts from
    calibrated.qdq.onnx
    finetuned.qdq.onnx      only where the recipe has a [finetune] table
    model.<format>.onnx     what ships
    report.json             the rows of `validate`
    state.json              what a rerun may keep (qpipe/state.py)

Every file is written beside and renamed, so whatever stops a run, a rerun goes on after the last finished stage; the
fine-tuning itself goes on from its last checkpoint.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

import qpipe
from qpipe.errors import OutputError, ParityError, one_line
from qpipe.ir.files.lock import held
from qpipe.ir.files.outputs import check_output
from qpipe.json_values import plain_rows, to_plain
from qpipe.processes import is_main_process, wait_for_all
from qpipe.progress import step
from qpipe.recipe import Recipe, names_code
from qpipe.settings import ExportSettings
from qpipe.state import STATE_FILE, State, fingerprint, stage_key, write_json

FLOAT_FILE: Final = "float.onnx"
REPORT_FILE: Final = "report.json"
CHECKPOINT_FILE: Final = "finetune.checkpoint"
LOCK_FILE: Final = ".qpipe-lock"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a pipeline: what it reads, what it is told, what it writes, and how.

    `inputs` are paths, or names of code (digits, package.module:factory), whose text is all that is known of them.
    `run` is told whether the checkpoint of the folder is its own, to go on from. `shared`: whether several processes do
    it together; the main one does all others. checkpoint: the file from which it goes on.
    """

    name: str
    inputs: Mapping[str, str]
    arguments: Mapping[str, Any]
    output: Path
    run: Callable[[bool], object]
    shared: bool = False
    checkpoint: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it writes, and may delete."""
        return (self.output,) if self.checkpoint is None else (self.output, self.checkpoint)

    def key(self) -> str:
        """The hash of the inputs as they are now, and of the arguments."""
        inputs = {name: spec if names_code(spec) else fingerprint(Path(spec)) for name, spec in self.inputs.items()}
        return stage_key(self.name, inputs, to_plain(self.arguments))


@dataclass(frozen=True)
class StageOutcome:
    """How a stage came out: its file, whether it was kept from an earlier run, the seconds that it took then or now."""

    name: str
    output: str
    kept: bool
    seconds: float


@dataclass(frozen=True)
class PipelineReport:
    """A finished pipeline: its folder, the stages in order, and the rows of `validate`."""

    output: str
    stages: tuple[StageOutcome, ...]
    rows: list[dict[str, JsonValue]]


def run_recipe(recipe: Recipe, *, restart: bool = False) -> PipelineReport:
    """Run the stages of `recipe` that are not finished yet; `restart` forgets those that are.

    Raises:
        ParityError: the files that must compute the same integers don't.
        QpipeError: whatever stops a stage; finished stages are kept.
    """
    folder = make_folder(recipe.output)
    return finish(stages_of(recipe, folder), folder, restart=restart)


def finish(stages: list[Stage], folder: Path, *, restart: bool = False) -> PipelineReport:
    """Run those of `stages` that are not finished, the last of which is `validate`, and report on all of them.

    No other run may be at work in the folder, and nothing in it that a stage writes be an input, or a file that no run
    made: OutputError before the first stage.
    """
    with held(folder / LOCK_FILE, str(folder)) if is_main_process() else nullcontext():
        if is_main_process():
            _check_files(stages, folder)
            if restart:
                State(folder).forget()
        outcomes = run_stages(stages, folder)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return PipelineReport(str(folder), outcomes, report["rows"])


def _check_files(stages: list[Stage], folder: Path) -> None:
    """Raise OutputError where a run would take the place of something that it did not make."""
    record, state = folder / STATE_FILE, State(folder)
    written = [file for stage in stages for file in stage.files]
    given: dict[str, Path] = {}
    made_here: set[str] = set()
    for stage in stages:
        # What a later stage writes is not made yet where an earlier one reads it.
        given |= {spec: Path(spec) for spec in stage.inputs.values() if spec not in made_here and not names_code(spec)}
        made_here.add(str(stage.output))
    for file in (record, *written):
        check_output(file, sources=given.values())
    for file in written:
        if file.exists() and not state.made(file):
            raise OutputError(f"{file}: is there already, and no run made it; expected another output folder")


def run_stages(stages: list[Stage], folder: Path) -> tuple[StageOutcome, ...]:
    """Run each stage, or keep its output where it is finished; one JSON record in `folder` says which are."""
    outcomes = []
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        wait_for_all()
        state = State(folder)
        key = stage.key()
        finished = state.finished(stage.name, key)
        with step(title if finished is None else f"{title}: finished before"):
            seconds = _run(stage, key, state) if finished is None else finished.seconds
        outcomes.append(StageOutcome(stage.name, str(stage.output), finished is not None, seconds))
    wait_for_all()
    return tuple(outcomes)


def stages_of(recipe: Recipe, folder: Path) -> list[Stage]:
    """The stages that `recipe` asks for; each reads what the ones before it write into `folder`."""
    stages, model = [], recipe.model.path
    if names_code(model):
        stages.append(_import_stage(recipe, folder))
        model = str(folder / FLOAT_FILE)
    stages.append(_calibrate_stage(recipe, model, folder))
    if recipe.finetune is not None:
        stages.append(_finetune_stage(recipe, stages[-1].output, folder))
    qdq = stages[-1].output
    exports = [_export_stage(recipe, settings, qdq, folder) for settings in recipe.export.each()]
    models = [model, *dict.fromkeys(str(stage.output) for stage in stages if stage.output.name.endswith(".qdq.onnx"))]
    models += [str(stage.output) for stage in exports]
    return [*stages, *exports, _validate_stage(recipe, models, folder)]


def make_folder(path: str | Path) -> Path:
    """The folder at `path`, created where there is none; OutputError where that fails."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError of a NUL
        raise OutputError(f"{folder}: can't be created ({one_line(error)}), expected a folder") from error
    return folder


def _run(stage: Stage, key: str, state: State) -> float:
    """Run one stage and record it; the seconds that it took. The main process alone touches files."""
    checkpoint = stage.checkpoint
    resume = checkpoint is not None and state.was_begun(stage.name, key) and checkpoint.exists()
    wait_for_all()
    began = time.perf_counter()
    if not is_main_process():
        if stage.shared:
            stage.run(resume)
        return time.perf_counter() - began
    state.begin(stage.name, key, stage.files)
    if checkpoint is not None and not resume:
        checkpoint.unlink(missing_ok=True)
    stage.run(resume)
    seconds = time.perf_counter() - began
    state.end(stage.name, key, stage.output, seconds)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return seconds


def _import_stage(recipe: Recipe, folder: Path) -> Stage:
    output, model = folder / FLOAT_FILE, recipe.model

    def run(_: bool) -> None:
        from qpipe.ir.files.save import save_model
        from qpipe.ir.files.torch_import import resolve_model

        save_model(resolve_model(model.path, model.weights, model.input_shape), output)

    inputs = {"model": model.path} | ({"weights": model.weights} if model.weights else {})
    return Stage(name="import", inputs=inputs, arguments={"input_shape": model.input_shape}, output=output, run=run)


def _calibrate_stage(recipe: Recipe, model: str, folder: Path) -> Stage:
    output = folder / "calibrated.qdq.onnx"
    # A network that was imported has the sizes already.
    sizes = {} if names_code(recipe.model.path) else {"input_shape": recipe.model.input_shape}
    arguments = {
        **recipe.calibrate.arguments(),
        **sizes,
        "layers": [entry.arguments() for entry in recipe.layers],
        "seed": recipe.seed,
        "preprocess": recipe.preprocess.overrides(),
    }

    def run(_: bool) -> None:
        qpipe.calibrate(model, recipe.data.path, output, **arguments)

    inputs = {"model": model, "data": recipe.data.path}
    return Stage(name="calibrate", inputs=inputs, arguments=arguments, output=output, run=run, shared=True)


def _finetune_stage(recipe: Recipe, qdq: Path, folder: Path) -> Stage:
    assert recipe.finetune is not None
    output = folder / "finetuned.qdq.onnx"
    arguments = {**recipe.finetune.arguments(), **recipe.task.arguments(), "seed": recipe.seed}

    checkpoint = folder / CHECKPOINT_FILE

    def run(resume: bool) -> None:
        qpipe.finetune(qdq, recipe.data.path, output, **arguments, checkpoint=checkpoint, resume=resume)

    inputs = {"model": str(qdq), "data": recipe.data.path}
    teacher = recipe.finetune.teacher
    if teacher is not None and Path(teacher).is_file():
        inputs["teacher"] = teacher
    return Stage(
        name="finetune",
        inputs=inputs,
        arguments=arguments,
        output=output,
        run=run,
        shared=True,
        checkpoint=checkpoint,
    )


def _export_stage(recipe: Recipe, settings: ExportSettings, qdq: Path, folder: Path) -> Stage:
    output = folder / f"model.{settings.format}.onnx"
    arguments = {**settings.arguments(), "seed": recipe.seed}

    def run(_: bool) -> None:
        qpipe.export(qdq, output, **arguments, data=recipe.data.path)

    inputs = {"model": str(qdq), "data": recipe.data.path}
    return Stage(name=f"export-{settings.format}", inputs=inputs, arguments=arguments, output=output, run=run)


def _validate_stage(recipe: Recipe, models: list[str], folder: Path) -> Stage:
    output = folder / REPORT_FILE
    arguments = {
        **recipe.validation.arguments(),
        **recipe.task.arguments(),
        "preprocess": recipe.preprocess.overrides(),
    }

    def run(_: bool) -> None:
        report = qpipe.validate(models, recipe.data.path, **arguments)
        found = {"ok": report.ok, "rows": list(plain_rows(report.rows)), "task": report.task}
        write_json(output, to_plain(found))
        if not report.ok:
            raise ParityError(f"{output}: files that must compute the same integers differ; see its rows")

    inputs = {Path(model).name: model for model in models} | {"data": recipe.data.path}
    return Stage(name="validate", inputs=inputs, arguments=arguments, output=output, run=run)
