import os
import stat
from pathlib import Path

import pytest

from qpipe.errors import RecipeError
from qpipe.recipe import Recipe, load_recipe, names_code

MINIMAL = 'output = "out"\n[model]\npath = "net.onnx"\n[data]\npath = "digits"\n'

LAYER = "[[layer]]\nmatch = 'a'\nweight_bits = 4\n[[layer]]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def message_of(path: Path) -> str:
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_minimal_recipe_has_every_default_and_no_finetuning(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MINIMAL))
    assert recipe.finetune is None
    assert recipe.calibrate.weight_bits == 8
    assert recipe.export.formats == ("qoperator",)
    assert recipe.validation.split == "test"
    assert recipe.seed == 0


def test_paths_are_relative_to_the_recipe_and_code_is_not_a_path(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MINIMAL))
    assert recipe.output == str(tmp_path / "out")
    assert recipe.model.path == str(tmp_path / "net.onnx")
    assert recipe.data.path == "digits"
    text = MINIMAL.replace("net.onnx", "pkg.mod:make").replace("digits", "/data/x.npz")
    text = text.replace("[data]", 'weights = "w.safetensors"\ninput_shape = [3, 8, 8]\n[data]')
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.model.path == "pkg.mod:make"
    assert recipe.model.weights == str(tmp_path / "w.safetensors")
    assert recipe.model.input_shape == {"": (3, 8, 8)}
    assert recipe.data.path == "/data/x.npz"


@pytest.mark.parametrize(("teacher", "joined"), [("float", "float"), ("big.onnx", "{folder}/big.onnx")])
def test_a_teacher_is_a_path_or_the_float_network(tmp_path: Path, teacher: str, joined: str) -> None:
    recipe = load_recipe(written(tmp_path, f"{MINIMAL}[finetune]\nteacher = '{teacher}'\n"))
    assert recipe.finetune is not None
    assert recipe.finetune.teacher == joined.format(folder=tmp_path)


def test_every_table_is_read(tmp_path: Path) -> None:
    text = f"""seed = 7
{MINIMAL}
[preprocess]
mean = [0.5]
pixel_range = 255
[calibrate]
weight_bits = 4
percentile = 99
weight_rounding = "nearest"
activation_rounding = "least-error"
[[layer]]
match = "layer3.*"
weight_bits = 3
[[layer]]
match = "conv1"
activation_bits = 6
weight_clip = 3
[finetune]
epochs = 3
flip = false
[export]
formats = ["integer", "qoperator"]
io = "integer"
[validate]
limit = 100
"""
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.seed == 7
    assert recipe.preprocess.overrides() == {"mean": (0.5,), "pixel_max": 255}
    assert recipe.calibrate.percentile == 99
    assert (recipe.calibrate.weight_rounding, recipe.calibrate.activation_rounding) == ("nearest", "least-error")
    assert [entry.arguments() for entry in recipe.layers] == [
        {"match": "layer3.*", "weight_bits": 3, "activation_bits": None, "weight_clip": None, "stays_float": None},
        {"match": "conv1", "weight_bits": None, "activation_bits": 6, "weight_clip": 3.0, "stays_float": None},
    ]
    assert recipe.finetune is not None
    assert recipe.finetune.epochs == 3
    assert recipe.finetune.flip is False
    assert recipe.export.formats == ("integer", "qoperator")
    assert recipe.validation.limit == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "[calibrate]\nbatchs = 3\n", "[calibrate] batchs: unknown key, did you mean 'batches'?"),
        (MINIMAL + "[validate]\nlimt = 3\n", "[validate] limt: unknown key, did you mean 'limit'?"),
        (MINIMAL + "[finetune]\nmomentun = 0.5\n", "[finetune] momentun: unknown key, did you mean 'momentum'?"),
        (MINIMAL + "[calib]\nbatches = 3\n", "calib: unknown key, did you mean 'calibrate'?"),
        ("sed = 1\n" + MINIMAL, "sed: unknown key, did you mean 'seed'?"),
        (MINIMAL + "[finetune]\nepochs = 'one'\n", "[finetune] epochs: 'one', expected a valid integer"),
        (
            MINIMAL + "[export]\nformats = ['tflite']\n",
            "[export] formats: 'tflite', expected 'qoperator', 'integer' or 'qdq'",
        ),
        (MINIMAL + "[export]\nformats = []\n", "[export] formats: [], expected at least one item"),
        (
            MINIMAL + LAYER + "match = 'b'\nweight_bits = 9\n",
            "[[layer]] 2, weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8",
        ),
        (
            MINIMAL + LAYER + "mach = 'b'\n",
            "[[layer]] 2, match: missing, but required; [[layer]] 2, mach: unknown key, did you mean 'match'?",
        ),
        (
            MINIMAL + LAYER + "match = 'b'\n",
            "layer 'b': nothing given, expected at least one of weight_bits, activation_bits, weight_clip, stays_float",
        ),
        (MINIMAL + "[layer]\nmatch = 'b'\n", "layer: {'match': 'b'}, expected a list"),
        ("layer = ['b']\n" + MINIMAL, "[[layer]] 1: 'b', expected a table"),
        (MINIMAL + "[calibrate]\nweight_bits = 1\n", "[calibrate] weight_bits: 1, expected 2, 3, 4, 5, 6, 7 or 8"),
        (
            MINIMAL + "[calibrate]\nranges = 'fixed'\nactivation_rounding = 'nearest'\n",
            "activation_rounding: 'nearest', expected 'ceil' with fixed ranges",
        ),
        (
            MINIMAL + "[export]\nlayout = 'NHWC'\n",
            "layout: 'NHWC', but without effect, expected io 'integer' with it",
        ),
        (
            MINIMAL + "[export]\nformats = ['integer', 'qdq']\nio = 'integer'\n",
            "io: 'integer', but a qdq file has float inputs and outputs, expected the format qoperator or integer",
        ),
        (
            MINIMAL + "[export]\nformat = 'qdq'\n",
            "[export] format: unknown key, did you mean 'formats'?",
        ),
        (
            MINIMAL + "[finetune]\nrecipe = 'faq-4bit'\nschedule = 'step'\n",
            "milestones: missing, but a step schedule needs the epochs at which it falls",
        ),
        (
            MINIMAL + "[finetune]\narithmetic = 'float'\n",
            "[finetune] arithmetic: 'float', but a recipe's network is quantized, expected 'mls'",
        ),
        (
            MINIMAL + "[finetune]\narithmetic = 'mls'\nstart = 'random'\n",
            "[finetune] start: 'random', expected it in [calibrate]: a recipe trains what that gives",
        ),
        (
            MINIMAL + "[finetune]\narithmetic = 'mls'\nelement = [2]\n",
            "element: '2', expected bits of exponent and mantissa, as in 2,1",
        ),
        (
            MINIMAL + "[finetune]\nssp_ratio = 0.25\n",
            "ssp_ratio: 0.25, but without effect, expected it together with ssp",
        ),
        (MINIMAL + "[[export]]\n", "export: [{}], expected a table"),
        ("[model]\npath = 'a'\n[data]\npath = 'b'\n", "output: missing, but required"),
        ("output = 'o'\n[model]\n[data]\npath = 'b'\n", "[model] path: missing, but required"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message_of(written(tmp_path, text)) == message


def test_bad_syntax_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in message_of(written(tmp_path, 'output = "x"\nseed = \n'))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"seed = 1\n\xff\xfe")
    assert message_of(path) == "byte 9 is not UTF-8, expected a TOML file"


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in message_of(tmp_path / "absent.toml")
    assert "directory" in message_of(tmp_path)


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_recipe(path).seed == 0


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.toml")
    assert message_of(tmp_path / "recipe.toml") == "is no file, expected a recipe"


def test_a_device_is_not_read(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "recipe.toml", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root may make a device")
    assert message_of(tmp_path / "recipe.toml") == "is no file, expected a recipe"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=" + "[" * 50_000 + "]" * 50_000, "not valid TOML: nested too deeply"),
        (
            MINIMAL.replace("[model]", "a" + ".a" * 50_000 + " = 1\n[model]"),
            "line 2 has 50,000 dots",
        ),
        ("seed = " + "9" * 5000, "not valid TOML: Exceeds the limit"),
        ("#" * (1 << 20) + "#", "has more than 1,048,576 bytes, expected a recipe"),
        ("seed = 0x" + "f" * 5000 + "\n" + MINIMAL, "seed: a very large int, expected at most 9223372036854775807"),
        ("seed = 18446744073709551616\n" + MINIMAL, "seed: 18446744073709551616, expected at most 9223372036854775807"),
        ("seed = -1\n" + MINIMAL, "seed: -1, expected greater than or equal to 0"),
        (
            MINIMAL + "[[layer]]\nmatch = ''\nweight_bits = 4\n",
            "[[layer]] 1, match: '', expected at least one character",
        ),
        (MINIMAL + "[calibrate]\nweight_bits = 1" + "0" * 30, "[calibrate] weight_bits: 1000000"),
        (MINIMAL + "[finetune]\nlr = 1e308\n", "lr: 1e+308, expected at most 3.4e+38"),
        (MINIMAL + "[finetune]\nmilestones = [1, 1e300]\n", "milestones: Fraction("),
        (
            MINIMAL + "[finetune]\ncrop_padding = 1000000000\n",
            "[finetune] crop_padding: 1000000000, ",
        ),
        (MINIMAL + "[preprocess]\nmean = [0.5, 1e100]\n", "mean: 1e+100, expected at most 3.4e+38"),
        (MINIMAL + "[calibrate]\npercentile = nan\n", "[calibrate] percentile: nan, expected a finite number"),
        (MINIMAL + "[calibrate]\npercentile = 0\n", "[calibrate] percentile: 0, expected greater than 0"),
        (
            MINIMAL + "[finetune]\nlr = 1979-05-27\n",
            "[finetune] lr: datetime.date(1979, 5, 27), expected a valid number",
        ),
        (
            MINIMAL + f"[calibrate]\nbatches = '{'a' * 500}'\n",
            f"[calibrate] batches: '{'a' * 76}..., expected a valid integer",
        ),
        (MINIMAL + "[preprocess]\nmean = [[[0.5]]]\n", "[preprocess] mean: [[0.5]], expected a valid number"),
    ],
)
def test_what_no_recipe_holds(tmp_path: Path, text: str, message: str) -> None:
    found = message_of(written(tmp_path, text))
    assert found.startswith(message)
    assert len(found) < 600


def test_weights_that_are_unsafe_without_vnni_are_refused_before_anything_runs(tmp_path: Path) -> None:
    unsafe = MINIMAL + '[calibrate]\ncpu = "vnni"\n'
    assert message_of(written(tmp_path, unsafe)).startswith("[export] cpu: 'portable', expected 'vnni'")
    assert load_recipe(written(tmp_path, unsafe + '[export]\ncpu = "vnni"\n')).export.cpu == "vnni"
    assert load_recipe(written(tmp_path, unsafe + '[export]\nweights = "uint8"\n')).export.weights == "uint8"


@pytest.mark.parametrize("spec", ["digits", "torchvision:resnet18", "timm:resnet18.a1_in1k", "package.module:factory"])
def test_code(spec: str) -> None:
    assert names_code(spec)


@pytest.mark.parametrize("spec", ["net.onnx", "folder/digits", "digits.npz", "C:/net.onnx", "a b:c"])
def test_paths(spec: str) -> None:
    assert not names_code(spec)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "tools/recipes").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_example_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert recipe.export.formats == ("qoperator", "integer", "qdq")
    assert recipe.finetune is not None


def test_a_plain_export_of_a_network_that_keeps_its_skips_is_refused_before_anything_runs(tmp_path: Path) -> None:
    plain_export = MINIMAL + "[export]\nplain = true\n"
    for unsafe in (plain_export, plain_export + "[finetune]\nepochs = 1\n"):
        message = message_of(written(tmp_path, unsafe))
        assert message == "[export] plain: true, expected plain = true in [calibrate] or [finetune], where skips go"
    for stage in ("calibrate", "finetune"):
        plain = plain_export + f"[{stage}]\nplain = true\n"
        message = message_of(written(tmp_path, plain + "blocks = 'layer1.*'\n"))
        assert message == f"[export] plain: true, but [{stage}] blocks is 'layer1.*', expected '*'"
        assert load_recipe(written(tmp_path, plain)).export.plain
