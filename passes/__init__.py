"""Every pass by its name; a pipeline is text, and this table is what it is read with."""

import onnx_ir as ir

from passes.calibrate_on_signs import CalibrateOnSigns
from passes.calibrate_percentile import CalibratePercentile
from passes.constant_reshape import ConstantReshape
from passes.constants_to_initializers import ConstantsToInitializers
from passes.exact_average_pool import ExactAveragePool
from passes.expand_bases import ExpandBases
from passes.explicit_padding import ExplicitPadding
from passes.finalize import Finalize
from passes.fix_ranges import FixRanges
from passes.fold_constants import FoldConstants
from passes.fuse_bias_add import FuseBiasAdd
from passes.inline_functions import InlineFunctions
from passes.insert_quantizers import InsertQuantizers
from passes.lower_integer import LowerInteger
from passes.lower_qoperator import LowerQOperator
from passes.name_nodes import NameNodes
from passes.randomize_weights import RandomizeWeights
from passes.reduce_mean_to_global_average_pool import ReduceMeanToGlobalAveragePool
from passes.remove_dead_code import RemoveDeadCode
from passes.remove_identity import RemoveIdentity
from passes.remove_quantizers import RemoveQuantizers
from passes.remove_zero_bias import RemoveZeroBias
from passes.rescale_channels import RescaleChannels
from passes.restore_batch_norm import RestoreBatchNorm
from passes.restore_softmax import RestoreSoftmax
from passes.round_ranges import RoundRanges
from passes.share_constants import ShareConstants
from passes.shortcut_every_convolution import ShortcutEveryConvolution
from passes.strip_skips import StripSkips
from passes.weights_to_uint8 import WeightsToUint8

PASSES: dict[str, type[ir.passes.InPlacePass]] = {
    "restore-batch-norm": RestoreBatchNorm,
    "randomize-weights": RandomizeWeights,
    "fix-ranges": FixRanges,
    "calibrate-on-signs": CalibrateOnSigns,
    "calibrate-percentile": CalibratePercentile,
    "round-ranges": RoundRanges,
    "insert-quantizers": InsertQuantizers,
    "finalize": Finalize,
    "constant-reshape": ConstantReshape,
    "constants-to-initializers": ConstantsToInitializers,
    "expand-bases": ExpandBases,
    "explicit-padding": ExplicitPadding,
    "fold-constants": FoldConstants,
    "fuse-bias-add": FuseBiasAdd,
    "inline-functions": InlineFunctions,
    "exact-average-pool": ExactAveragePool,
    "lower-integer": LowerInteger,
    "lower-qoperator": LowerQOperator,
    "weights-to-uint8": WeightsToUint8,
    "name-nodes": NameNodes,
    "reduce-mean-to-global-average-pool": ReduceMeanToGlobalAveragePool,
    "remove-dead-code": RemoveDeadCode,
    "remove-identity": RemoveIdentity,
    "remove-quantizers": RemoveQuantizers,
    "remove-zero-bias": RemoveZeroBias,
    "rescale-channels": RescaleChannels,
    "restore-softmax": RestoreSoftmax,
    "share-constants": ShareConstants,
    "shortcut-every-convolution": ShortcutEveryConvolution,
    "strip-skips": StripSkips,
}
