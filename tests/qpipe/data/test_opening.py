import subprocess
import sys
from pathlib import Path

import pytest

from qpipe.data import open_data
from qpipe.errors import DataError


@pytest.mark.parametrize("data", ["no/such/place", "C:/x.npz", Path("absent.npz"), "a:b:c", "digit"])
def test_missing_path_says_what_data_may_be(data: str | Path) -> None:
    with pytest.raises(DataError) as caught:
        open_data(data)
    assert str(caught.value) == (
        f"data '{data}' don't exist: expected a folder of class folders, an .npz file, 'digits' or "
        "'package.module:factory'"
    )


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "readme.md"
    path.write_text("# hello")
    with pytest.raises(DataError, match=r"readme\.md' is no \.npz file, or a truncated one \(7 bytes\)"):
        open_data(path)


def test_unknown_split() -> None:
    with pytest.raises(DataError, match="split is 'dev', expected one of train, val, test"):
        open_data("digits", "dev")  # type: ignore[arg-type]


def test_import_is_light() -> None:
    heavy = {"torch", "PIL", "sklearn", "onnx", "onnxruntime", "rich"}
    code = f"import sys, qpipe.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
