"""A run of `qpipe.calibrate`: which passes turn a normalized float network into a QDQ one, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import onnx_ir as ir

from passes.quantizing.bound_scores import BoundScores, sums_of_scores
from passes.quantizing.calibrate_on_signs import CalibrateOnSigns
from passes.quantizing.calibrate_percentile import CalibratePercentile
from passes.quantizing.equalize_channels import EqualizeChannels
from passes.quantizing.expand_bases import ExpandBases
from passes.quantizing.fill_ranges import FillRanges
from passes.quantizing.fit_input import FitInput, write_units
from passes.quantizing.fit_weights import FitWeights
from passes.quantizing.fix_ranges import FixRanges
from passes.quantizing.insert_quantizers import InsertQuantizers
from passes.quantizing.keep_codes import KeepCodes
from passes.quantizing.reach_masks import ReachMasks
from passes.quantizing.rescale_channels import RescaleChannels
from passes.quantizing.restore_batch_norm import RestoreBatchNorm
from passes.quantizing.round_ranges import RoundRanges
from passes.quantizing.separate_parts import SeparateParts, layers_in_parts
from passes.quantizing.separate_skips import SeparateSkips
from passes.randomize_weights import RandomizeWeights
from passes.skips.carry_skips import CarrySkips
from passes.skips.refit_blocks import RefitBlocks
from passes.skips.shortcut_every_convolution import ShortcutEveryConvolution
from passes.skips.strip_skips import StripSkips
from qpipe.calibration.inputs import CalibrationInputs
from qpipe.calibration.shard import Shard, current_shard
from qpipe.data import Source
from qpipe.formats.table import FORMATS
from qpipe.ir.files.metadata import AppliedPass, add_provenance
from qpipe.ir.graph.layer_options import LayerOptions, LayerTable
from qpipe.settings import CalibrateSettings, LayersSettings
from qpipe.verbs.beside_float import IMAGES, compare_with_float
from qpipe.verbs.sources import about
from qpipe.verbs.trained_weights import PEAK_CLIP, HeldWeights, hold_weights

DRAWN_FROM: Final = 256
"""Images: values and rows of inputs are drawn from what they give."""
REFITTED_ON: Final = 1024
"""Images: blocks that lose their skips are refitted on them."""
_STRIPS: dict[str, type[RefitBlocks | CarrySkips]] = {"refit": RefitBlocks, "exact": CarrySkips}
"""By how they take skips out of float networks, those that look at data."""
_REBUILDS: dict[str, type[ir.passes.InPlacePass]] = {
    known.name: known for known in (ShortcutEveryConvolution, ExpandBases)
}
"""Those that make a network ready for a format of weights."""
Passes = Sequence[ir.passes.InPlacePass]


def layer_table(settings: LayersSettings) -> LayerTable:
    """The entries as passes take them."""
    return LayerTable(tuple(LayerOptions(**entry.arguments()) for entry in settings.layers))


@dataclass(frozen=True, kw_only=True)
class CalibrationRun:
    """One network on its way: the float one is given, and becomes the QDQ one in its place.

    name: the given network's, for messages. images: what it reads.
    """

    network: ir.Model
    name: str
    settings: CalibrateSettings
    layers: LayersSettings
    seed: int
    images: Source

    def carry_out(self) -> None:
        """Rebuild, observe, insert quantizers, fit, and say how far it is from the float network.

        Raises:
            ModelError, LoweringError, DataError: in one line.
        """
        network, settings = self.network, self.settings
        with about(self.name):
            held = hold_weights(network, settings)
        self.strip()
        with about(self.name):
            self._apply(self._separated(is_held=held is not None))
            floats = network.clone()
            insert = self._inserted(held)
            self._apply(self._rebuilt())
            insert.check(network)
        self._apply(self._observed(held))
        if self._is_ready:
            # Factors between layers change what tensors are counted in: what is compared has them.
            floats = network.clone()
            write_units(floats)
        keep = () if held is None else tuple(held.rows)
        self._apply([insert])
        if settings.rescale_channels:
            self._apply([RescaleChannels(keep=keep)])
        if settings.fits_weights:
            self._apply([FitWeights(keep=keep, floats=floats, inputs=self._drawn, shard=self._shard)])
        if held is not None:
            held.tell(network, self.settings.cpu)
        with about(self.name):
            compare_with_float(floats, network, self._inputs, is_ready=self._is_ready)

    def strip(self) -> None:
        """Only take skips out, where settings say so; the network stays float.

        Raises:
            LoweringError, DataError: in one line.
        """
        with about(self.name):
            self._apply(self._without_skips())

    def _without_skips(self) -> Passes:
        """What takes skips out."""
        settings = self.settings
        if not settings.plain:
            return []
        if settings.stripping == "cut":
            return [StripSkips(blocks=settings.blocks)]
        return [_STRIPS[settings.stripping](blocks=settings.blocks, **self._first(REFITTED_ON))]

    def _separated(self, *, is_held: bool) -> Passes:
        """What gives parts, channels and terms their own sizes, from a few images; the function stays."""
        parts = self._is_ready and not is_held and layers_in_parts(self.network.graph, self._table)
        changes: list[type[BoundScores | SeparateSkips | EqualizeChannels]] = []
        if self._has_scores:
            changes.append(BoundScores)
        if self._is_ready:
            changes += [SeparateSkips, EqualizeChannels]
        looking = changes if self.settings.ranges == "data" else []
        return [*([SeparateParts(layers=self._table)] if parts else []), *(c(**self._first(IMAGES)) for c in looking)]

    def _rebuilt(self) -> Passes:
        """What makes the network that is quantized: with BatchNormalizations, of other weights, of binary ones."""
        found: list[ir.passes.InPlacePass] = []
        if self.settings.restore_batch_norm:
            found.append(RestoreBatchNorm(inputs=self._as_in_training(), shard=self._shard))
        if self.settings.start == "random":
            found.append(RandomizeWeights(seed=self.seed))
        if self._rebuild is not None:
            found.append(_REBUILDS[self._rebuild]())
        return found

    def _observed(self, held: HeldWeights | None) -> Passes:
        """What chooses the activations' ranges."""
        settings = self.settings
        seen: dict[str, Any] = {"inputs": self._inputs, "shard": self._shard}
        percentile = settings.percentile
        found: list[ir.passes.InPlacePass] = []
        if settings.ranges == "fixed":
            found.append(FixRanges(**self._widths))
        if self._rebuild is not None:
            found.append(CalibrateOnSigns(percentile=percentile, **seen))
        found.append(CalibratePercentile(percentile=percentile, **self._widths, **seen))
        if self._has_scores:
            found.append(ReachMasks(**self._widths))
        plain: dict[str, Any] = {"activation_bits": settings.activation_bits, "layers": self._table}
        if settings.fills_ranges and held is None:
            # A percentile that is asked for is where ranges end.
            fill = FillRanges(**plain, foresees=percentile is None, inputs=self._drawn, shard=self._shard)
            found += [FitInput(**plain, inputs=self._inputs), fill]
        elif settings.activation_rounding in {"nearest", "least-error"}:
            found.append(RoundRanges(rounding=settings.activation_rounding, **self._widths, **seen))
        if settings.plain and settings.stripping == "exact":
            found.append(KeepCodes(**plain))
        return found

    def _inserted(self, held: HeldWeights | None) -> InsertQuantizers:
        settings = self.settings
        return InsertQuantizers(
            weight_bits=settings.weight_bits,
            **self._widths,
            quantizer=settings.quantizer,
            weight_clip=settings.weight_clip if held is None else PEAK_CLIP,
            weight_rounding=settings.weight_rounding if held is None else "ceil",
            per_channel=settings.per_channel,
            cpu=settings.cpu,
            percentile=settings.percentile,
        )

    @property
    def _is_ready(self) -> bool:
        """Whether the result is meant to be used before it is trained."""
        return FORMATS[self.settings.quantizer].holds_floats and self.settings.start == "pretrained"

    @property
    def _rebuild(self) -> str | None:
        return FORMATS[self.settings.quantizer].rebuild

    @cached_property
    def _has_scores(self) -> bool:
        """Whether masks may lower what a Softmax reads, in the network as it is given."""
        return bool(sums_of_scores(self.network.graph))

    @cached_property
    def _table(self) -> LayerTable:
        return layer_table(self.layers)

    @cached_property
    def _widths(self) -> Mapping[str, Any]:
        return self.settings.model_dump(include={"activation_bits", "skip_bits"}) | {"layers": self._table}

    @cached_property
    def _draws(self) -> Mapping[str, Any]:
        return self.settings.model_dump(include={"batches", "batch_size"}) | {"seed": self.seed}

    @cached_property
    def _inputs(self) -> CalibrationInputs:
        return CalibrationInputs(self.images, **self._draws)

    @cached_property
    def _shard(self) -> Shard:
        return current_shard()

    @cached_property
    def _drawn(self) -> Any:
        return self._inputs.first(DRAWN_FROM)

    def _first(self, count: int) -> dict[str, Any]:
        return {"inputs": self._inputs.first(count), "shard": self._shard}

    def _as_in_training(self) -> CalibrationInputs:
        """Batches as fine-tuning will augment them by default; a stream's are read once, as they are."""
        from qpipe.train.faq import default_augment

        if self.images.size is None:
            return self._inputs
        return CalibrationInputs(self.images, **self._draws, augment=default_augment(self.images, None, None))

    def _apply(self, passes: Passes) -> None:
        """Run the passes, and record those that did something, with the draws of the data that they saw."""
        for pass_ in passes:
            modified = pass_(self.network).modified
            if modified or not hasattr(pass_, "inputs"):
                applied = AppliedPass.of(pass_)
                seen = self._draws if hasattr(pass_, "inputs") else {}
                add_provenance(self.network, AppliedPass(name=applied.name, arguments={**applied.arguments, **seen}))
