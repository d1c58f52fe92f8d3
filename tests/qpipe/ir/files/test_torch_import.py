import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.files.torch_import import resolve_model
from support.networks import parse

# Convolutions of 27 and 8 products, summed in another order: a few roundings of 2**-24 on values of about one.
REORDERED_SUMS = 1e-5

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x))).mean((2, 3))))

def make():
    return Net()

def needs_arguments(width):
    return Net()

def makes_text():
    return "net"

def ends():
    raise SystemExit(0)

def fails():
    raise ValueError("no\\nweights here")

class Late(Net):
    def forward(self, x):
        raise SystemExit

class Stubborn(Net):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of its kind")

class Odd(Net):
    def forward(self, x):
        return {"logits": super().forward(x), "name": "odd"}

class Branching(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "nets_of_test").mkdir()
    (tmp_path / "nets_of_test" / "__init__.py").touch()
    (tmp_path / "nets_of_test" / "small.py").write_text(SOURCE)
    (tmp_path / "nets_of_test" / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("nets_of_test")]:
        del sys.modules[name]


@pytest.fixture
def net(package):
    sys.path.append(str(package))
    from nets_of_test.small import Net

    torch.manual_seed(0)
    made = Net()
    with torch.no_grad():
        made.bn.running_mean.normal_()
        made.bn.running_var.uniform_(0.5, 2)
    return made


def run(model, x):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def test_export_computes_what_torch_does_and_keeps_batch_norm(net):
    net.train()
    model = resolve_model(net, input_shape=(3, 16, 16))
    assert net.training
    normalize(model)
    assert Counter(node.op_type for node in model.graph) == Counter(
        ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    )
    assert len(model.graph.node(0).inputs) == 2
    x = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=REORDERED_SUMS)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["input", "output"]


def test_no_trace_of_the_machine_is_left(net, package):
    content = ir.to_proto(resolve_model(net, input_shape=(3, 8, 8))).SerializeToString()
    assert str(package).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("container", ["safetensors", "pth", "checkpoint", "parallel"])
def test_factory_with_weights(net, package, container):
    state = net.state_dict()
    path = package / ("net.safetensors" if container == "safetensors" else "net.pth")
    if container == "safetensors":
        save_file(state, path)
    elif container == "pth":
        torch.save(state, path)
    else:
        prefix = "module." if container == "parallel" else ""
        torch.save({"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}}, path)
    model = resolve_model("nets_of_test.small:make", weights=path, input_shape=(3, 8, 8))
    expected = resolve_model(net, input_shape=(3, 8, 8))
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(model, x), run(expected, x))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets_of_test.gone:make", "module 'nets_of_test.gone' can't be imported: ModuleNotFoundError"),
        ("nets_of_test.broken:make", "module 'nets_of_test.broken' can't be imported: .*nothing_of_this_name"),
        ("nets_of_test.small:mak", "'nets_of_test.small' has no 'mak'; did you mean 'make'?"),
        ("nets_of_test.small:zzz", "'nets_of_test.small' has no 'zzz'$"),
        ("nets_of_test.small:number", "'number' is int, expected a function that returns an nn.Module"),
        ("nets_of_test.small:makes_text", "the factory returned str, expected an nn.Module"),
        ("nets_of_test.small:needs_arguments", "the factory raised TypeError"),
        ("nets_of_test.small:ends", "^nets_of_test.small:ends: the factory raised SystemExit: 0$"),
        ("nets_of_test.small:fails", "^nets_of_test.small:fails: the factory raised ValueError: no weights here$"),
        ("nets_of_test.small:Late", r"^nets_of_test.small:Late: input \[batch, 3, 8, 8\] does not fit: SystemExit$"),
        (
            "nets_of_test.small:Stubborn",
            "^nets_of_test.small:Stubborn: the module can't be copied: RuntimeError: one of",
        ),
        ("nets_of_test.small:Odd", "^nets_of_test.small:Odd: "),
        ("nets_of_test.small:Branching", "^nets_of_test.small:Branching: can't be exported to ONNX: "),
    ],
)
def test_factories_that_make_no_module(package, spec, message):
    with pytest.raises(ModelError, match=message) as refusal:
        resolve_model(spec, input_shape=(3, 8, 8))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("shape", [(10**18, 8, 8), (2**62, 2**62), (3, 2**31, 2**31)])
def test_an_input_that_no_memory_holds(package, shape):
    with pytest.raises(ModelError, match=r"^nets_of_test.small:make: input \[batch, .*\] does not fit: ") as refusal:
        resolve_model("nets_of_test.small:make", input_shape=shape)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("extra", ["torchvision", "timm"])
def test_missing_extras_are_named(extra, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, f"{extra}.models", None)
    with pytest.raises(ModelError, match=rf"^{extra}:resnet18: {extra} is not installed; .*'qpipe\[{extra}\]'"):
        resolve_model(f"{extra}:resnet18")


def changed(state, how):
    state = dict(state)
    if how == "missing":
        del state["fc.weight"]
    elif how == "unexpected":
        state["head.weight"] = torch.zeros(1)
    elif how == "shape":
        state["fc.weight"] = torch.zeros(5, 8)
    else:
        del state["bn.num_batches_tracked"]
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"no weight 'fc.weight' \(1 missing, 0 unexpected\)"),
        ("unexpected", "the model has no weight 'head.weight'"),
        ("shape", r"weight 'fc.weight' has shape \[5, 8\], expected \[10, 8\]"),
    ],
)
def test_weights_that_do_not_match(net, package, how, message):
    save_file(changed(net.state_dict(), how), package / "net.safetensors")
    with pytest.raises(ModelError, match=f"net.safetensors: {message}"):
        resolve_model(net, weights=package / "net.safetensors", input_shape=(3, 8, 8))


def test_the_counter_of_batches_may_be_missing(net, package):
    save_file(changed(net.state_dict(), "counter"), package / "net.safetensors")
    resolve_model(net, weights=package / "net.safetensors", input_shape=(3, 8, 8))


class Evil:
    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_nothing_is_unpickled(net, package):
    for name, dump in (("net.pth", lambda path: torch.save(Evil(), path)), ("raw.pth", None)):
        path = package / name
        if dump:
            dump(path)
        else:
            path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ModelError, match="not a file of weights only"):
            resolve_model(net, weights=path, input_shape=(3, 8, 8))
    assert not (package / "unpickled").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_damaged_weights(net, package, name):
    with pytest.raises(ModelError, match="no such file"):
        resolve_model(net, weights=package / name, input_shape=(3, 8, 8))
    (package / name).write_bytes(b"damaged")
    with pytest.raises(ModelError, match=f"{name}: not a file of weights only"):
        resolve_model(net, weights=package / name, input_shape=(3, 8, 8))


def test_weights_of_something_else(net, package):
    torch.save([1, 2], package / "net.pth")
    with pytest.raises(ModelError, match="holds list, expected names with tensors"):
        resolve_model(net, weights=package / "net.pth", input_shape=(3, 8, 8))


def test_input_shape_that_is_missing_or_does_not_fit(net):
    with pytest.raises(ModelError, match="Net: a PyTorch model needs its input shape"):
        resolve_model(net)
    with pytest.raises(ModelError, match=r"Net: input \[batch, 1, 8, 8\] does not fit: RuntimeError"):
        resolve_model(net, input_shape=(1, 8, 8))


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


def test_module_that_can_not_be_exported():
    with pytest.raises(ModelError, match="Branching: can't be exported to ONNX") as refusal:
        resolve_model(Branching(), input_shape=(3, 8, 8))
    assert "\n" not in str(refusal.value)


def test_onnx_goes_through_load_model(tmp_path):
    path = tmp_path / "net.onnx"
    proto = parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }", opsets='"": 17', ir_version=8)
    path.write_bytes(proto.SerializeToString())
    assert resolve_model(str(path)).opset_imports[""] == 21
    assert resolve_model(ir.load(path)).opset_imports[""] == 21
    with pytest.raises(ModelError, match="weights go with a PyTorch model"):
        resolve_model(path, weights="net.pth")
    with pytest.raises(ModelError, match=r"gone\.onnx: no such file"):
        resolve_model("gone.onnx")


def test_torch_is_not_imported_for_onnx(tmp_path):
    script = (
        "import sys; from qpipe.errors import ModelError; from qpipe.ir.files.torch_import import resolve_model\n"
        "try: resolve_model('gone.onnx')\n"
        "except ModelError: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "False"
