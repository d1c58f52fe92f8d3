"""Bring a loaded model into the one form that everything later reads.

Afterwards shapes are inferred, constants are initializers, nothing is dead or unnamed, padding is explicit, a spatial
mean is GlobalAveragePool; a bias, a constant factor and an offset sit in their Conv or Gemm; a ConvTranspose is a Conv
and a shuffle. BatchNormalization stays a node.
"""

import onnx_ir as ir

from passes.quantizing.keep_front_end import KeepFrontEnd
from passes.rewrites.affine_to_batch_norm import AffineToBatchNorm
from passes.rewrites.ask_integers import AskIntegers
from passes.rewrites.binary_sums import BinarySums
from passes.rewrites.bounds_to_clip import BoundsToClip
from passes.rewrites.broadcast_in_where import BroadcastInWhere
from passes.rewrites.conditions_to_numbers import ConditionsToNumbers
from passes.rewrites.constant_reshape import ConstantReshape
from passes.rewrites.constant_resize import ConstantResize
from passes.rewrites.constants_to_initializers import ConstantsToInitializers
from passes.rewrites.drop_nan_guards import DropNanGuards
from passes.rewrites.drop_zero_states import DropZeroStates
from passes.rewrites.einsum_to_matmul import EinsumToMatMul
from passes.rewrites.explicit_padding import ExplicitPadding
from passes.rewrites.explicit_pools import ExplicitPools
from passes.rewrites.finite_masks import FiniteMasks
from passes.rewrites.flatten_linear import FlattenLinear
from passes.rewrites.fold_affine_back import FoldAffineBack
from passes.rewrites.fold_affine_forward import FoldAffineForward
from passes.rewrites.fold_batch_rows import FoldBatchRows
from passes.rewrites.fold_constants import FoldConstants
from passes.rewrites.freeze_batch_norm import FreezeBatchNorm
from passes.rewrites.gather_batch_rows import GatherBatchRows
from passes.rewrites.gather_elements_to_gather import GatherElementsToGather
from passes.rewrites.gather_lists import GatherLists
from passes.rewrites.gather_nd_to_gather import GatherNDToGather
from passes.rewrites.gather_to_reshape import GatherToReshape
from passes.rewrites.gather_to_slice import GatherToSlice
from passes.rewrites.global_max_to_max_pool import GlobalMaxToMaxPool
from passes.rewrites.inline_functions import InlineFunctions
from passes.rewrites.instance_norm_to_layer_norm import InstanceNormToLayerNorm
from passes.rewrites.known_shapes import KnownShapes
from passes.rewrites.layer_norm_last_axis import LayerNormLastAxis
from passes.rewrites.linear_models import LinearModels
from passes.rewrites.masks_to_sums import MasksToSums
from passes.rewrites.matrices_to_grouped_conv import MatricesToGroupedConv
from passes.rewrites.merge_affine import MergeAffine
from passes.rewrites.multiply_by_reciprocal import MultiplyByReciprocal
from passes.rewrites.name_nodes import NameNodes
from passes.rewrites.pad_for_constants import PadForConstants
from passes.rewrites.pads_of_max_pools import PadsOfMaxPools
from passes.rewrites.pick_by_masks import PickByMasks
from passes.rewrites.plain_gemm import PlainGemm
from passes.rewrites.plain_places import PlainPlaces
from passes.rewrites.prelu_to_lines import PReluToLines
from passes.rewrites.push_transposes import PushTransposes
from passes.rewrites.recognize_activations import RecognizeActivations
from passes.rewrites.recognize_layer_norm import RecognizeLayerNorm
from passes.rewrites.recognize_lengths import RecognizeLengths
from passes.rewrites.reduce_to_global_pool import ReduceToGlobalPool
from passes.rewrites.remove_dead_code import RemoveDeadCode
from passes.rewrites.remove_identity import RemoveIdentity
from passes.rewrites.remove_zero_bias import RemoveZeroBias
from passes.rewrites.resize_to_convolution import ResizeToConvolution
from passes.rewrites.restore_softmax import RestoreSoftmax
from passes.rewrites.separate_masks import SeparateMasks
from passes.rewrites.sequence_to_split import SequenceToSplit
from passes.rewrites.softmax_last_axis import SoftmaxLastAxis
from passes.rewrites.spell_norms import SpellNorms
from passes.rewrites.split_resize import SplitResize
from passes.rewrites.split_to_slices import SplitToSlices
from passes.rewrites.square_product import SquareProduct
from passes.rewrites.squeeze_axes import SqueezeAxes
from passes.rewrites.standard_operators import StandardOperators
from passes.rewrites.sub_pixel_convolution import SubPixelConvolution
from passes.rewrites.uncast_inputs import UncastInputs
from passes.rewrites.undo_dynamic_quantization import UndoDynamicQuantization
from passes.rewrites.unpool_to_where import UnpoolToWhere
from qpipe.errors import ModelError, QpipeError, one_line

NORMALIZE = ir.passes.Sequential(
    InlineFunctions(),
    UndoDynamicQuantization(),
    StandardOperators(),
    LinearModels(),
    FiniteMasks(),
    AskIntegers(),
    MasksToSums(),
    DropNanGuards(),
    # Before sizes are folded into constants: inference has other ones for some windows.
    ExplicitPadding(),
    ExplicitPools(),
    # What is of another size than its operand hides that of all behind it.
    SequenceToSplit(),
    GatherToReshape(),
    KnownShapes(),
    GatherBatchRows(),
    PickByMasks(),
    FoldConstants(),
    BinarySums(),
    SqueezeAxes(),
    # After folding, which leaves an Identity where it proves that a node does nothing.
    RemoveIdentity(),
    # Once more, of masks that have been computed.
    FiniteMasks(),
    SeparateMasks(),
    UncastInputs(),
    ConstantsToInitializers(),
    FreezeBatchNorm(),
    ConstantReshape(),
    ConstantResize(),
    DropZeroStates(),
    # What computes sizes reads activations that nothing else may read.
    RemoveDeadCode(),
    FoldBatchRows(),
    # Once more, of sizes that hang on what was expanded to the batch.
    KnownShapes(),
    RemoveDeadCode(),
    PadForConstants(),
    SplitToSlices(),
    # Once more, of places that have been folded.
    GatherToReshape(),
    GatherNDToGather(),
    GatherElementsToGather(),
    PlainPlaces(),
    GatherLists(),
    GatherToSlice(),
    EinsumToMatMul(),
    PlainGemm(),
    MatricesToGroupedConv(),
    RestoreSoftmax(),
    SoftmaxLastAxis(),
    ExplicitPadding(),
    ExplicitPools(),
    PadsOfMaxPools(),
    UnpoolToWhere(),
    BoundsToClip(),
    InstanceNormToLayerNorm(),
    RecognizeLayerNorm(),
    LayerNormLastAxis(),
    RecognizeActivations(),
    PushTransposes(),
    # What a Transpose was pushed behind is read by nothing else from now on.
    RemoveDeadCode(),
    ReduceToGlobalPool(),
    GlobalMaxToMaxPool(),
    MergeAffine(),
    FoldAffineBack(),
    FlattenLinear(),
    # Behind what is a Gemm now there may be more.
    FoldAffineBack(),
    FoldAffineForward(),
    # Its slopes become a BatchNormalization.
    PReluToLines(),
    AffineToBatchNorm(),
    SpellNorms(),
    MultiplyByReciprocal(),
    SquareProduct(),
    RecognizeLengths(),
    RemoveDeadCode(),
    # Behind what folds into it and makes the BatchNormalization behind it.
    SubPixelConvolution(),
    SplitResize(),
    ResizeToConvolution(),
    RemoveZeroBias(),
    BroadcastInWhere(),
    ConditionsToNumbers(),
    RemoveDeadCode(),
    NameNodes(),
    KeepFrontEnd(),
)


def normalize(model: ir.Model) -> ir.passes.PassResult:
    """Normalize in place; raises the QpipeError of the pass that fails, as it is, and any other as a ModelError."""
    try:
        return NORMALIZE(model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:
        # onnx_ir wraps what a pass raises; the user is to see the pass's own words.
        if isinstance(error.__cause__, QpipeError):
            raise error.__cause__ from None
        raise ModelError(f"the graph can't be normalized: {one_line(error, kind=True)}") from error
