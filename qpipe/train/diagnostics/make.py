"""What `--diagnose` measures of a run."""

from __future__ import annotations

from qpipe.data import Source
from qpipe.settings import FinetuneSettings
from qpipe.train.companions.low_bit import low_bit_steps
from qpipe.train.diagnostics.collect import Diagnostics
from qpipe.train.diagnostics.low_bit import LowBitErrors
from qpipe.train.diagnostics.measurement import Measurement
from qpipe.train.diagnostics.moments import moments
from qpipe.train.diagnostics.neuron_cosine import NeuronCosine
from qpipe.train.diagnostics.noise_ratio import NoiseRatio, diagnostic_images
from qpipe.train.diagnostics.step_cosine import StepCosine
from qpipe.train.executor import Executor
from qpipe.train.schedule import updates_of


def make_diagnostics(executor: Executor, source: Source, run: FinetuneSettings) -> Diagnostics:
    """How far training went; the noise of a network's quantizers, where it has some; and what low-bit formats would
    lose, where they are trained in, or nothing else is quantized.
    """
    parts: dict[str, Measurement] = {"neurons": NeuronCosine()}
    if executor.is_quantized:
        parts |= {"steps": StepCosine(), "noise": NoiseRatio(diagnostic_images(source))}
    if run.arithmetic == "mls" or not executor.is_quantized:
        steps = low_bit_steps(executor, ends=run.low_bit_ends)
        parts["low_bit"] = LowBitErrors(steps, moments(updates_of(run, source)))
    return Diagnostics(parts)
