"""The arguments of each stage: names, types, limits, defaults and the line of help, once.

A recipe's tables and the command line's options are both made from these models (`qpipe/recipe.py`,
`qpipe/cli/options.py`); the verbs in `qpipe/verbs/` take the same names. Types are strict: `"5"` is no integer.
"""

from qpipe.settings.base import Bits, Cpu, Format, Settings, validated
from qpipe.settings.calibration import CalibrateSettings, LayerSettings
from qpipe.settings.inputs import DataSettings, ModelSettings, PreprocessSettings, TorchSettings
from qpipe.settings.shipping import BenchSettings, ExportSettings, ValidateSettings
from qpipe.settings.training import FinetuneSettings

__all__ = [
    "BenchSettings",
    "Bits",
    "CalibrateSettings",
    "Cpu",
    "DataSettings",
    "ExportSettings",
    "FinetuneSettings",
    "Format",
    "LayerSettings",
    "ModelSettings",
    "PreprocessSettings",
    "Settings",
    "TorchSettings",
    "ValidateSettings",
    "validated",
]
