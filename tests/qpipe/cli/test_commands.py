"""Each command hands its options to the verb of its name, and prints what comes back, for people and as JSON."""

import json
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
from pydantic import JsonValue

import qpipe
from qpipe.cli.export import gate_line
from qpipe.cli.main import main
from support.energy_report import ENERGY

GATE: dict[str, JsonValue] = {"tensors": 2, "images": 64, "extreme_rows": 16, "layer_rounds": 6, "integers": 54321}
CERTIFICATE = {"cpu": "portable", "layers": [{"layer": "conv1", "largest_accumulator": 123456}], "gate": GATE}
ADOPTED = {"ranges": 5, "float_layers": ["conv9"]}
NODES = [
    {"name": "conv1", "op": "Conv", "role": "quantized", "note": "8-bit weights", "advice": ""},
    {"name": "erf", "op": "Erf", "role": "no integer form", "note": "", "advice": "remove it"},
]


def model_with(**metadata: Any) -> ir.Model:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    model.metadata_props.update({f"qpipe.{key}": json.dumps(value) for key, value in metadata.items()})
    return model


SIZES = {"i.onnx": 187289}


class Inspection:
    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "float",
            "inputs": [{"name": "x", "shape": ["N", 3, 8, 8], "type": "float"}],
            "outputs": [{"name": "y", "shape": None, "type": "float"}],
            "opset": 21,
            "macs": 1000,
            "ops": {"Conv": 2},
            "roles": {"quantized": 1, "no integer form": 1},
            "nodes": NODES,
            "problems": ["inputs are 'x', 'z': expected exactly one"],
            "notes": [],
            "comparison": None,
            "ready": False,
        }


class Validation(SimpleNamespace):
    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "images": self.images, "rows": self.rows}


class Bench(SimpleNamespace):
    def to_json(self) -> dict[str, Any]:
        return {"cpu": self.cpu, "rows": self.rows}


NOTES = ("all samples are used as 'val'",)
BENCH_ROW = {"name": "a.onnx", "size": 1108429, "speedup": 0.5, "activation_node": "Conv 'c'", "unknown": None}


def validation(ok: bool) -> Validation:
    row = {"name": "a.onnx", "size": 187289, "top1": 0.915, "integers_equal": ok}
    problems = () if ok else ("a.onnx and b.onnx were made from one QDQ file, but differ on 3 of 5 images",)
    return Validation(ok=ok, images=5, rows=[row], problems=problems, task={"said": "for classes"}, notes=NOTES)


class Calls:
    """Verbs that note their arguments and return `answers[name]`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.answers: dict[str, Any] = {
            "inspect": Inspection(),
            "calibrate": model_with(certificate=CERTIFICATE),
            "adopt": model_with(adopted=ADOPTED),
            "finetune": model_with(certificate=CERTIFICATE),
            "export": model_with(certificate=CERTIFICATE),
            "validate": validation(True),
            "report": SimpleNamespace(missing=("a: no certificate.",), to_json=lambda: {"runs": [], "missing": []}),
            "energy": ENERGY,
            "bench": Bench(rows=[BENCH_ROW], cpu="A CPU, VNNI", images=5, notes=("all samples are used as 'val'",)),
        }
        for name in self.answers:
            monkeypatch.setitem(vars(qpipe), name, self.verb(name))
        monkeypatch.setattr("qpipe.ir.cost.file_size.file_size", lambda path: SIZES[path])

    def verb(self, name: str) -> Any:
        def verb(*positional: Any, **keywords: Any) -> Any:
            print("a library's chatter")
            self.given[name] = (positional, keywords)
            return self.answers[name]

        return verb


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


WORDS = {
    "inspect": "inspect m.onnx",
    "calibrate": "calibrate m.onnx --data d.npz -o q.onnx --mean 0.5 --batches 3 --per-tensor --seed 4 "
    "--layer a*:weight_bits=4 --layer b:activation_bits=3 --weight-rounding nearest",
    "adopt": "adopt t.onnx --data d.npz -o q.onnx --mean 0.5 --batches 3 --cpu vnni",
    "finetune": "finetune q.onnx --data d.npz -o f.onnx --epochs 2 --no-flip --checkpoint c --resume",
    "export": "export f.onnx -o i.onnx --format integer --io integer --layout NHWC --data d.npz",
    "validate": "validate a.onnx b.onnx --data d.npz --limit 5 --split val",
    "report": "report a.onnx out/b -o r.html --name A --name B --float-accuracy 0.9",
    "energy": "energy m.onnx --element 2,1 --element-error 0,4 --group c --group-format 8,0 --low-bit-ends "
    "--batch-size 8 --prices own.toml --input-shape 3,8,8 --picture p.svg",
    "bench": "bench a.onnx b.onnx --batch-sizes 1,8 --threads 2 --data d.npz --split val --picture p.png --mean 0.5",
}
POSITIONAL = {
    "inspect": ("m.onnx",),
    "calibrate": ("m.onnx", "d.npz", "q.onnx"),
    "adopt": ("t.onnx", "d.npz", "q.onnx"),
    "finetune": ("q.onnx", "d.npz", "f.onnx"),
    "export": ("f.onnx", "i.onnx"),
    "validate": (["a.onnx", "b.onnx"], "d.npz"),
    "report": (["a.onnx", "out/b"], "r.html"),
    "energy": ("m.onnx",),
    "bench": (["a.onnx", "b.onnx"], "d.npz"),
}
SOME_KEYWORDS: dict[str, dict[str, Any]] = {
    "inspect": {"weights": None},
    "calibrate": {"preprocess": {"mean": (0.5,)}, "batches": 3, "per_channel": False, "seed": 4, "weight_bits": 8}
    | {
        "weight_rounding": "nearest",
        "layers": [
            {"match": "a*", "weight_bits": 4, "activation_bits": None, "weight_clip": None, "stays_float": None},
            {"match": "b", "weight_bits": None, "activation_bits": 3, "weight_clip": None, "stays_float": None},
        ],
    },
    "adopt": {"preprocess": {"mean": (0.5,)}, "batches": 3, "batch_size": 256, "cpu": "vnni", "seed": 0},
    "finetune": {"epochs": 2, "flip": False, "checkpoint": "c", "resume": True, "preprocess": None, "seed": 0},
    "export": {"format": "integer", "io": "integer", "layout": "NHWC", "data": "d.npz", "weights": "int8"},
    "validate": {"limit": 5, "split": "val", "preprocess": None},
    "report": {"names": ["A", "B"], "title": None, "float_accuracy": 0.9},
    "energy": {"element": (2, 1), "element_weight": None, "element_error": (0, 4), "group": "c", "batch_size": 8}
    | {
        "group_format": (8, 0),
        "low_bit_ends": True,
        "prices": "own.toml",
        "input_shape": {"": (3, 8, 8)},
        "picture": "p.svg",
    },
    "bench": {"batch_sizes": (1, 8), "threads": 2, "repeats": 50, "picture": "p.png", "split": "val", "limit": None}
    | {"preprocess": {"mean": (0.5,)}},
}
SHOWN = {
    "inspect": (
        "opset: 21",
        "inputs: x float [N, 3, 8, 8]",
        "outputs: y float [?]",
        "Conv",
        "quantized: 1, no integer form: 1",
        "remove it",
        "problem: inputs are",
        "no integer form as they stand (1): erf",
    ),
    "calibrate": ("wrote q.onnx",),
    "adopt": (
        "ranges of 5 tensors are those of its quantizers; left in float: conv9",
        "a.onnx",
        "0.915",
        "wrote q.onnx",
    ),
    "finetune": ("wrote f.onnx",),
    "export": ("certificate", "conv1", "123,456", "54,321 integers", "wrote i.onnx, 187.3 kB"),
    "validate": ("a.onnx", "187.3 kB", "0.915", "5 images", "used as 'val'", "every integer is equal"),
    "report": ("a: no certificate.", "wrote r.html"),
    "energy": (
        "training, 8 images: operations, and the price of one",
        "4321",
        "0.0594",
        "training, 8 images: pJ by horowitz",
        "of it, %",
        "inference, 1 image: pJ by horowitz",
        "own.toml, nJ",
        "horowitz: 45 nm\nown.toml\n",
        "note: not counted: 1 Erf",
        "4.25",
        "wrote p.svg",
    ),
    "bench": (
        "a.onnx",
        "1.1 MB",
        "0.5",
        "used as 'val'",
        "judged on: d.npz, val, 5 images",
        "CPU: A CPU",
        "wrote p.png",
    ),
}
JSON: dict[str, dict[str, Any]] = {
    "inspect": Inspection().to_json(),
    "calibrate": {"output": "q.onnx", "metadata": {"certificate": CERTIFICATE}, "data": []},
    "adopt": {"output": "q.onnx", "metadata": {"adopted": ADOPTED}, "data": []}
    | {"compared": validation(True).to_json()},
    "finetune": {"output": "f.onnx", "metadata": {"certificate": CERTIFICATE}, "data": []},
    "export": {"output": "i.onnx", "size": 187289, "metadata": {"certificate": CERTIFICATE}},
    "validate": {**validation(True).to_json(), "data": []},
    "report": {"output": "r.html", "runs": [], "missing": []},
    "energy": json.loads(json.dumps(ENERGY.to_json())),
    "bench": {"cpu": "A CPU, VNNI", "rows": [BENCH_ROW]},
}


@pytest.mark.parametrize("command", WORDS)
def test_options_reach_the_verb_and_people_get_tables(
    command: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS[command].split()) == 0
    positional, keywords = calls.given[command]
    assert positional == POSITIONAL[command]
    assert SOME_KEYWORDS[command].items() <= keywords.items()
    out = capsys.readouterr().out
    for words in SHOWN[command]:
        assert words in out


@pytest.mark.parametrize("command", WORDS)
def test_json_is_all_that_stands_on_stdout(command: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS[command].split(), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == JSON[command]
    assert "chatter" in captured.err


def test_what_no_model_has_is_no_column_of_bench(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "a.onnx"]) == 0
    out = capsys.readouterr().out
    assert "speedup" in out
    for word in ("unknown", "activation node", "judged", "wrote"):
        assert word not in out


@pytest.mark.parametrize(("words", "shown"), [([], "differ on 3 of 5 images"), (["--json"], "a.onnx")])
def test_integers_that_differ_are_status_1(
    words: list[str], shown: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answers["validate"] = validation(False)
    assert main([*WORDS["validate"].split(), *words]) == 1
    out = capsys.readouterr().out
    assert shown in out
    assert "every integer is equal" not in out


def test_run_and_demo_report_stages_and_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import qpipe.demo.run
    import qpipe.pipeline
    from qpipe.pipeline import PipelineReport, StageOutcome

    stages = (StageOutcome("calibrate", "out/c.qdq.onnx", kept=True, seconds=1.5),)
    report = PipelineReport("out", stages, [{"name": "a.onnx", "top1": 91.5}])
    monkeypatch.setattr(qpipe.pipeline, "run_recipe", lambda recipe, restart: report)
    monkeypatch.setattr(qpipe.demo.run, "run_demo", lambda output, restart: report)
    recipe = tmp_path / "r.toml"
    recipe.write_text('output = "o"\n[model]\npath = "m.onnx"\n[data]\npath = "digits"\n')
    for words in (["run", str(recipe)], ["demo"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        for expected in ("calibrate", "1.5", "91.5", "all files are in out"):
            assert expected in out
        assert main([*words, "--json"]) == 0
        payload = json.loads(capsys.readouterr().out)
        assert payload["rows"] == report.rows
        assert payload["stages"][0]["kept"] is True


@pytest.mark.parametrize(("format_", "exact", "told"), [("qdq", False, 1), ("qdq", True, 0), ("integer", False, 0)])
def test_what_needs_a_runtime_that_fuses_is_told_of_a_qdq_file(
    format_: str, exact: bool, told: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = {**CERTIFICATE, "layers": [{"layer": "conv1", "exact_in_float32": exact}]}
    calls.answers["export"].metadata_props["qpipe.certificate"] = json.dumps(certificate)
    assert main(["export", "f.onnx", "-o", "i.onnx", "--format", format_]) == 0
    line = "exact only where a runtime fuses them to integer kernels: conv1"
    assert capsys.readouterr().out.splitlines().count(line) == told


def test_what_the_gate_compared() -> None:
    """Without data there were no images, and none are told of."""
    told = "54,321 integers of 2 tensors equal the QDQ file's: on {}16 random and extreme inputs, and layer by layer"
    assert gate_line({"gate": GATE}) == told.format("64 images, ")
    assert gate_line({"gate": GATE | {"images": 0}}) == told.format("")
    assert gate_line({}) == "nothing was compared"
