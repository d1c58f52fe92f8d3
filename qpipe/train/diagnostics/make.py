"""What `--diagnose` measures of a run."""

from __future__ import annotations

from qpipe.data import Source
from qpipe.train.diagnostics.collect import Diagnostics
from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.diagnostics.neuron_cosine import NeuronCosine
from qpipe.train.diagnostics.noise_ratio import NoiseRatio, diagnostic_images
from qpipe.train.diagnostics.step_cosine import StepCosine
from qpipe.train.executor import Executor


def make_diagnostics(executor: Executor, source: Source) -> Diagnostics:
    """How far training went; and the noise of a network's quantizers, where it has some."""
    parts: dict[str, Measurement] = {"neurons": NeuronCosine()}
    if executor.is_quantized:
        parts |= {"steps": StepCosine(), "noise": NoiseRatio(diagnostic_images(source))}
    return Diagnostics(parts)
