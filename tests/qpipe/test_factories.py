import sys
from pathlib import Path

import pytest

from qpipe.errors import DataError, ModelError
from qpipe.factories import load_factory, names_factory


def test_the_form() -> None:
    assert names_factory("package.module:factory")
    assert names_factory("timm:resnet18.a1_in1k")
    assert not any(map(names_factory, ["module", "C:/net.onnx", "a:b:c", "3a:b", "a:b.c", ""]))


def test_a_function_may_import_from_the_folder_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qpipe_test_first.py").write_text(
        "def make():\n    import qpipe_test_second as s\n    return s.value\n"
    )
    (tmp_path / "qpipe_test_second.py").write_text("value = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert load_factory("qpipe_test_first:make", DataError, called="data", makes="of split")() == 7
    with pytest.raises(ModelError, match=r"^m: module 'qpipe_test_first' has no 'mak'; did you mean 'make'\?$"):
        load_factory("qpipe_test_first:mak", ModelError, called="m", makes="that returns a module")
