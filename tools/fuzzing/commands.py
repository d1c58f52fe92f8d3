"""The settings that each command's options come from."""

from typing import Final

from qpipe.settings import (
    BenchSettings,
    CalibrateSettings,
    CheckpointSettings,
    EnergySettings,
    ExportSettings,
    FinetuneSettings,
    PreprocessSettings,
    ReportSettings,
    SeedSettings,
    TaskSettings,
    TorchSettings,
    ValidateSettings,
)  # fmt: skip
from qpipe.settings.base import Settings

SETTINGS: Final[dict[str, tuple[type[Settings], ...]]] = {
    "inspect": (TorchSettings,),
    "calibrate": (CalibrateSettings, PreprocessSettings, TorchSettings, SeedSettings),
    "finetune": (
        FinetuneSettings,
        FinetuneSettings,
        TaskSettings,
        PreprocessSettings,
        CheckpointSettings,
        SeedSettings,
    ),
    "export": (ExportSettings, SeedSettings),
    "validate": (ValidateSettings, TaskSettings, PreprocessSettings),
    "energy": (EnergySettings, TorchSettings),
    "report": (ReportSettings,),
    "bench": (BenchSettings, TaskSettings, PreprocessSettings),
}
