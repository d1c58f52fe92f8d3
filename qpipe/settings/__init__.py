"""The options of each stage: names, types, limits, defaults and the line of help, once.

A recipe's tables, the command line's options and the keywords of the Python verbs are all made from these models
(`qpipe/recipe.py`, `qpipe/cli/options.py`, `qpipe/verbs/options.py`). Types are strict: `"5"` is no integer.
"""

from qpipe.settings.base import Bits, Cpu, Format, Settings, validated
from qpipe.settings.calibration import (
    AdoptSettings,
    CalibrateSettings,
    CalibrationRecord,
    LayerSettings,
    LayersSettings,
)
from qpipe.settings.energy import EnergySettings
from qpipe.settings.finetune import FinetuneSettings
from qpipe.settings.inputs import (
    CheckpointSettings,
    DataSettings,
    ModelSettings,
    PreprocessSettings,
    SeedSettings,
    TorchSettings,
)
from qpipe.settings.shipping import BenchSettings, ExportSettings, ExportsSettings, ReportSettings, ValidateSettings
from qpipe.settings.task import TaskSettings

__all__ = [
    "AdoptSettings",
    "BenchSettings",
    "Bits",
    "CalibrateSettings",
    "CalibrationRecord",
    "CheckpointSettings",
    "Cpu",
    "DataSettings",
    "EnergySettings",
    "ExportSettings",
    "ExportsSettings",
    "FinetuneSettings",
    "Format",
    "LayerSettings",
    "LayersSettings",
    "ModelSettings",
    "PreprocessSettings",
    "ReportSettings",
    "SeedSettings",
    "Settings",
    "TaskSettings",
    "TorchSettings",
    "ValidateSettings",
    "validated",
]
