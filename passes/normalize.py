"""Bring a loaded model into the one form that everything later reads.

Afterwards shapes are inferred, constants are initializers, nothing is dead or unnamed, padding is explicit, a spatial
mean is GlobalAveragePool; a bias, a constant factor and an offset sit in their Conv or Gemm; a ConvTranspose is a Conv
and a shuffle. BatchNormalization stays a node.
"""

import onnx_ir as ir

from passes.affine_to_batch_norm import AffineToBatchNorm
from passes.binary_sums import BinarySums
from passes.bounds_to_clip import BoundsToClip
from passes.constant_reshape import ConstantReshape
from passes.constant_resize import ConstantResize
from passes.constants_to_initializers import ConstantsToInitializers
from passes.drop_zero_states import DropZeroStates
from passes.explicit_padding import ExplicitPadding
from passes.explicit_pools import ExplicitPools
from passes.finite_masks import FiniteMasks
from passes.flatten_linear import FlattenLinear
from passes.fold_affine_back import FoldAffineBack
from passes.fold_affine_forward import FoldAffineForward
from passes.fold_batch_rows import FoldBatchRows
from passes.fold_constants import FoldConstants
from passes.freeze_batch_norm import FreezeBatchNorm
from passes.gather_lists import GatherLists
from passes.gather_to_reshape import GatherToReshape
from passes.gather_to_slice import GatherToSlice
from passes.global_max_to_max_pool import GlobalMaxToMaxPool
from passes.inline_functions import InlineFunctions
from passes.known_shapes import KnownShapes
from passes.merge_affine import MergeAffine
from passes.multiply_by_reciprocal import MultiplyByReciprocal
from passes.name_nodes import NameNodes
from passes.pad_for_constants import PadForConstants
from passes.plain_gemm import PlainGemm
from passes.prelu_to_lines import PReluToLines
from passes.push_transposes import PushTransposes
from passes.recognize_activations import RecognizeActivations
from passes.recognize_layer_norm import RecognizeLayerNorm
from passes.reduce_to_global_pool import ReduceToGlobalPool
from passes.remove_dead_code import RemoveDeadCode
from passes.remove_identity import RemoveIdentity
from passes.remove_zero_bias import RemoveZeroBias
from passes.restore_softmax import RestoreSoftmax
from passes.sequence_to_split import SequenceToSplit
from passes.softmax_last_axis import SoftmaxLastAxis
from passes.spell_norms import SpellNorms
from passes.split_resize import SplitResize
from passes.split_to_slices import SplitToSlices
from passes.square_product import SquareProduct
from passes.squeeze_axes import SqueezeAxes
from passes.sub_pixel_convolution import SubPixelConvolution
from passes.uncast_inputs import UncastInputs
from qpipe.errors import ModelError, QpipeError, one_line

NORMALIZE = ir.passes.Sequential(
    InlineFunctions(),
    FiniteMasks(),
    # Before sizes are folded into constants: inference has other ones for some windows.
    ExplicitPadding(),
    ExplicitPools(),
    # What is of another size than its operand hides that of all behind it.
    SequenceToSplit(),
    GatherToReshape(),
    KnownShapes(),
    FoldConstants(),
    BinarySums(),
    SqueezeAxes(),
    # After folding, which leaves an Identity where it proves that a node does nothing.
    RemoveIdentity(),
    UncastInputs(),
    ConstantsToInitializers(),
    FreezeBatchNorm(),
    ConstantReshape(),
    ConstantResize(),
    DropZeroStates(),
    # What computes sizes reads activations that nothing else may read.
    RemoveDeadCode(),
    FoldBatchRows(),
    PadForConstants(),
    SplitToSlices(),
    # Once more, of places that have been folded.
    GatherToReshape(),
    GatherLists(),
    GatherToSlice(),
    PlainGemm(),
    RestoreSoftmax(),
    SoftmaxLastAxis(),
    ExplicitPadding(),
    ExplicitPools(),
    BoundsToClip(),
    RecognizeLayerNorm(),
    RecognizeActivations(),
    PushTransposes(),
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
    # Behind what folds into it and makes the BatchNormalization behind it.
    SubPixelConvolution(),
    SplitResize(),
    RemoveZeroBias(),
    RemoveDeadCode(),
    NameNodes(),
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
