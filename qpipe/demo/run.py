"""`qpipe demo`: train the float network, then run the embedded recipe on it."""

from pathlib import Path
from typing import Final

from qpipe.ir.files.save import save_model
from qpipe.ir.files.torch_import import resolve_model
from qpipe.pipeline import FLOAT_FILE, PipelineReport, Stage, finish, make_folder, stages_of
from qpipe.recipe import Recipe

EPOCHS: Final = 20
SEED: Final = 0


def demo_recipe(folder: Path) -> Recipe:
    """The recipe of the demo: every stage and every format, on the float network that lies in `folder`."""
    from qpipe.demo.network import PREPROCESS

    return Recipe.model_validate(
        {
            "output": str(folder),
            "seed": SEED,
            "model": {"path": str(folder / FLOAT_FILE)},
            "data": {"path": "digits"},
            "preprocess": {"mean": PREPROCESS.mean, "std": PREPROCESS.std, "color": PREPROCESS.color},
            # A digit's mirror image is no digit.
            "finetune": {"epochs": 1, "crop_padding": 1, "flip": False},
            "export": {"formats": ("qoperator", "integer", "qdq")},
        }
    )


def run_demo(output: str | Path, *, restart: bool = False) -> PipelineReport:
    """Run the demo in the folder `output`; stages that are finished there are kept, unless `restart`.

    Raises:
        DataError: scikit-learn, which holds the digits, is not installed.
        ParityError: the files that must compute the same integers don't.
    """
    from qpipe.demo.network import one_thread

    folder = make_folder(output)
    with one_thread():
        return finish([_train_stage(folder), *stages_of(demo_recipe(folder), folder)], folder, restart=restart)


def _train_stage(folder: Path) -> Stage:
    output = folder / FLOAT_FILE

    def run(_: bool) -> None:
        from qpipe.demo.network import INPUT_SHAPE, train_network

        network = train_network(epochs=EPOCHS, seed=SEED)
        save_model(resolve_model(network, input_shape=INPUT_SHAPE), output)

    arguments = {"epochs": EPOCHS, "seed": SEED}
    return Stage(name="train", inputs={"data": "digits"}, arguments=arguments, output=output, run=run)
