"""Written by `tools/stub.py`, which reads the verbs and their settings; change those, and write it anew."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from qpipe.data import DataLike
from qpipe.errors import DataError as DataError
from qpipe.errors import LoweringError as LoweringError
from qpipe.errors import ModelError as ModelError
from qpipe.errors import OutputError as OutputError
from qpipe.errors import ParityError as ParityError
from qpipe.errors import QpipeError as QpipeError
from qpipe.errors import RecipeError as RecipeError
from qpipe.ir.files.torch_import import ModelLike
from qpipe.verbs.bench import BenchReport
from qpipe.verbs.energy import EnergyReport
from qpipe.verbs.inspect import Inspection
from qpipe.verbs.report import Report
from qpipe.verbs.runnable import OnnxModel
from qpipe.verbs.sources import ModelPath
from qpipe.verbs.sources import PreprocessLike
from qpipe.verbs.validate import ValidationReport
import onnx
import onnx_ir as ir

__version__: str

def adopt(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    batches: int = 5,
    batch_size: int = 256,
    cpu: Literal['portable', 'vnni'] = 'portable',
    seed: int = 0,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Read another tool's quantizers as observed ranges and weights, and snap them to power-of-two grids.

    Files with QuantizeLinear and DequantizeLinear are taken, as onnxruntime, NNCF, Quark, Model Optimizer, Brevitas,
    PyTorch and TensorFlow Lite (by tf2onnx) write them, and onnxruntime's operator-oriented ones. Activations that the
    tool took into its quantizers (Relu, Relu6) stand again, layers of weights that it left in float stay so, and what
    has no range of its own is observed on the data. `finetune` and `export` go on from there.

    Args:
        model: an .onnx path, a ModelProto or an onnx_ir.Model.
        data: a path, "digits", or arrays; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        preprocess: what pixels go through; None is what the model carries.
        batches: training batches to run; the maximum over them counts.
        batch_size: images in a batch.
        cpu: keep weights exact on x86 without VNNI too, or waive that.
        seed: one seed, one result on one machine.

    Returns:
        The QDQ model, which onnxruntime runs.

    Raises:
        ModelError, DataError, LoweringError, OutputError, RecipeError: in one line, naming what is wrong.
    """

def bench(
    models: Sequence[OnnxModel],
    data: DataLike | None = None,
    *,
    batch_sizes: Sequence[int] | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    repeats: int = 50,
    seconds: float = 60,
    threads: int | None = None,
    split: Literal['train', 'val', 'test'] = 'test',
    limit: int | None = None,
    output_name: str | None = None,
    loss: Literal['cross-entropy', 'binary', 'multi-label', 'mse'] | Callable[..., Any] | None = None,
    metric: Literal['top-1', 'top-5', 'accuracy', 'f1', 'mse', 'psnr', 'miou'] | Callable[..., Any] | None = None,
    ignore_label: int | None = None,
    preprocess: PreprocessLike = None,
    picture: ModelPath | None = None,
) -> BenchReport:
    """Measure latency, memory and, on data, the task's metric, the models in turn, each as a ratio to the first.

    Args:
        models: float, QDQ or exported. A trainable QDQ model is finalized in memory.
        data: with labels that models are judged by; None, or data without, judges nothing.
        preprocess: what the data's pixels go through; None is what the models carry.
        picture: where to draw the models side by side, at the first batch size: a .png or an .svg.
        batch_sizes: batch sizes, as in 1,8,32; by default 1, or what the models' files fix.
        input_shape: sizes of an input that models leave open, as x=3,224,224, for each of several.
        repeats: timed runs of each model and batch size.
        seconds: of a model at a batch size, after which no more timed runs are begun.
        threads: threads of a session; by default the runtime's choice.
        split: the part of the data.
        limit: count top-1 on the first images only.
        output_name: the output of the network that counts.
        loss: what training minimizes; by default what the output and the labels leave.
        metric: what the network is judged by; by default that of the loss.
        ignore_label: the class in label maps, as 255, that neither loss nor metric counts.

    Returns:
        One row for each batch size and model, and the CPU that it was measured on.

    Raises:
        ModelError, DataError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.bench(["net.onnx", "net.qdq.onnx"], "digits", repeats=5, limit=100)
        >>> [row.batch_size for row in report.rows], report.rows[0].speedup, report.images
        ([1, 1], 1.0, 100)
    """

def calibrate(
    model: ModelLike,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    plain: bool = False,
    blocks: str = '*',
    strip: Literal['refit', 'exact', 'cut'] | None = None,
    weight_bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8,
    activation_bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8,
    skip_bits: Literal[2, 3, 4, 5, 6, 7, 8] | None = None,
    quantizer: Literal['fixed-point', 'dorefa', 'lq', 'bireal', 'groupnet'] = 'fixed-point',
    batches: int = 5,
    batch_size: int = 256,
    percentile: float | None = None,
    weight_clip: float | None = None,
    weight_rounding: Literal['ceil', 'nearest'] | None = None,
    activation_rounding: Literal['ceil', 'nearest', 'least-error', 'fill'] | None = None,
    fit_weights: bool | None = None,
    per_channel: bool = True,
    rescale_channels: bool = True,
    restore_batch_norm: bool = True,
    start: Literal['pretrained', 'random'] = 'pretrained',
    ranges: Literal['data', 'fixed'] = 'data',
    cpu: Literal['portable', 'vnni'] = 'portable',
    layers: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    preprocess: PreprocessLike = None,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> ir.Model:
    """Give every tensor and weight a power-of-two grid, from training batches and the weights themselves.

    Source: FAQ, sections 3.1 and 3.2. Of several processes (torchrun) each runs its share of the batches, all return
    the same model, and the main one writes it.

    The widths are those of the inner layers: the first and the last layer's weights, the last layer's input and a
    branch that a convolution gives to an Add keep 8 bits. A skip that is wider than its own tensor is read by layers of
    weights at the tensor's width.

    Of the quantizers "fixed-point" is FAQ's (section 3.1.1). "dorefa" is DoReFa-Net's, 2 to 7 bits; each layer needs a
    BatchNormalization behind it. "lq" is LQ-Net's learned levels, 2 to 4 bits; of unsigned activations as well, where
    they have 4 bits or fewer. "bireal" (BiReal-Net) makes the residual blocks binary, weights and what they multiply,
    on a stream of 8 bits with a shortcut around every convolution; no bits may be given, and what it gives is to be
    trained. "groupnet" (GroupNet) likewise, with five binary bases in the place of each block's convolutions. Clip and
    rounding of the weights, and one scale a tensor, are the fixed-point quantizer's alone; with another one `layers`
    can tell a clip to the first and the last layer.

    Random weights and fixed ranges, `2**(p / 2) - 1` for p bits, are the paper's controls (FAQ, section 3.2 and Table
    2); the network's input keeps the range of its data.

    Args:
        model: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`. Of a QDQ file
            with fixed-point weights that can be trained, the float network that it holds: so a network that was trained
            at 8 bits is brought to fewer.
        data: a path, "digits", or arrays `[N, C, H, W]`; its training split is used.
        output: where to write the QDQ file; nothing is written without it.
        preprocess: what pixels go through; None is what the model carries.
        plain: strip the skip connections, and go on without them.
        blocks: the residual blocks to strip with plain, as layer3.*,layer4.0.
        strip: how, with plain: refit what is left by least squares; exact: carried in more channels, no value changes;
            cut: nothing else changes; by default refit, and cut where weights are random or skips fade.
        weight_bits: bits of the weights; the first and the last layer keep 8.
        activation_bits: bits of the activations.
        skip_bits: bits at which a skip connection is carried; by default those of the activations, and no fewer; 16 of
            sums that LayerNormalization reads.
        quantizer: of the inner layers' weights: power-of-two steps (FAQ), DoReFa-Net's, LQ-Net's; bireal, groupnet:
            signs, of a residual network's activations too.
        batches: training batches to run; the maximum over them counts.
        batch_size: images in a batch.
        percentile: percentile of an activation's range; by default the width's own: 99.99 for 8 bits, 99.9 for 4.
        weight_clip: clip of the weights in standard deviations; by default the largest weight at 8 bits, the width's
            own at fewer.
        weight_rounding: the weights' power of two: that above their step, or the nearest; by default nearest below 8
            bits.
        activation_rounding: the activations' power of two: above the percentile (ceil), the nearest, or that of the
            least error; fill: above it, and factors between layers fill it, with room for other samples; by default
            fill at 8 bits.
        fit_weights: choose weights' codes by the error at their layer's output, and take mean shifts off its bias; by
            default where they are pretrained and fixed-point.
        per_channel: one weight scale for each output channel.
        rescale_channels: factors on channels that a BatchNormalization follows, so that their weights fill the grid;
            weights are not fitted without.
        restore_batch_norm: a BatchNormalization, from measured statistics, where one was folded before export.
        start: random: forget the network's weights, a control experiment.
        ranges: fixed: an activation's range is that of its width, without calibration, a control.
        cpu: keep weights exact on x86 without VNNI too, or waive that.
        layers: what some layers are told, as {'match': 'layer3.*', 'weight_bits': 4}, with activation_bits (of the
            layer's output) and weight_clip too, or with stays_float alone; match is a pattern of the names that
            `inspect` shows, or of what follows a '/' in them; it goes before the widths of all, also for what keeps 8
            bits otherwise.
        seed: one seed, one result on one machine.
        weights: weights of a PyTorch model: a .safetensors, or a .pth file.
        input_shape: sizes of an input to compute at, as x=3,224,224, or x=1,3,224,224 with the batch; may be given
            again; an only input needs no name. A PyTorch model needs them, without the batch.

    Returns:
        The QDQ model, which onnxruntime runs.

    Raises:
        ModelError, DataError, LoweringError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> qdq = qpipe.calibrate("net.onnx", "digits", "net.qdq.onnx", preprocess={"mean": (0.3,), "std": (0.38,)})
        >>> qpipe.inspect("net.qdq.onnx").kind
        'QDQ, trainable'
    """

def energy(
    model: ModelLike,
    *,
    element: Sequence[int] = (2, 4),
    element_weight: Sequence[int] | None = None,
    element_activation: Sequence[int] | None = None,
    element_error: Sequence[int] | None = None,
    group: Literal['none', 'n', 'c', 'nc'] = 'nc',
    group_weight: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_activation: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_error: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_format: Sequence[int] = (8, 1),
    low_bit_ends: bool = False,
    batch_size: int = 128,
    prices: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    picture: ModelPath | None = None,
) -> EnergyReport:
    """Count a network's operations by kind, and price them: a training step and inference, in float and in fewer bits.

    A float network's step is compared with that of low-bit training, its inference with the int8 and the int4 export;
    a QDQ file with the same in float. Arithmetic alone is counted: moving data is not, which commonly costs more.

    Args:
        model: float or QDQ: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or `package.module:factory`.
        picture: where to draw what is saved, and where a step's energy goes: a .png or an .svg.
        element: bits of an element's exponent and mantissa, as in 2,1; 0,4 is fixed point.
        element_weight: those of the weights, where they differ.
        element_activation: those of the activations, where they differ.
        element_error: those of the errors, where they differ.
        group: what has a scale of its own beside the tensor's: the parts along its first axis (n), its second (c), or
            both; of weights these are output and input channels, of errors samples and output channels.
        group_weight: that of the weights, where it differs.
        group_activation: that of the activations, where it differs.
        group_error: that of the errors, where it differs.
        group_format: bits of exponent and mantissa of a group's scale; the mantissa has 0 or 1.
        low_bit_ends: the first and the last layer are low-bit too.
        batch_size: images of a training step, over which weights are quantized and updated once.
        prices: what operations cost: horowitz, equation-9, table-5, or a .toml file; by default all of the named.
        weights: weights of a PyTorch model: a .safetensors, or a .pth file.
        input_shape: sizes of an input to compute at, as x=3,224,224, or x=1,3,224,224 with the batch; may be given
            again; an only input needs no name. A PyTorch model needs them, without the batch.

    Returns:
        A row for each run, part of a run and kind of operation, and how many times less energy than float it takes.

    Raises:
        ModelError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.energy("net.onnx", element=(2, 4), prices="equation-9")
        >>> report.savings[0].what, round(report.savings[0].ratios["equation-9"], 2)
        ('equation 9', 6.83)
    """

def export(
    model: ModelPath | onnx.ModelProto | ir.Model,
    output: ModelPath | None = None,
    *,
    plain: bool = False,
    cpu: Literal['portable', 'vnni'] = 'portable',
    weights: Literal['int8', 'uint8'] = 'int8',
    io: Literal['float', 'integer'] = 'float',
    integer_only: bool | None = None,
    layout: Literal['NCHW', 'NHWC'] = 'NCHW',
    format: Literal['qoperator', 'integer', 'qdq'] = 'qoperator',
    data: DataLike | None = None,
    seed: int = 0,
) -> ir.Model:
    """Finalize a QDQ model, prove its integers, lower it, and compare every integer with the QDQ file's.

    Nodes without an integer form stay float between a DequantizeLinear and a QuantizeLinear: islands, which the
    certificate names. What is proven and compared then holds for each region of integers. `integer_only` refuses them.

    The format "qoperator" is onnxruntime's integer operators, "integer" has no float tensor at all and standard
    operators only, "qdq" is the finalized QDQ graph itself. Skip connections can be trained away, not taken out:
    `plain` refuses a network that has them.

    The CPUs "portable" demand weights that are exact on x86 without VNNI, "vnni" waives that: the file is compared as a
    CPU with VNNI computes it, whatever this one is. Weights as "uint8" (zero point 128) are exact everywhere, whatever
    they are. Those of 4 bits and fewer are exact everywhere as they are, and stored as INT4 or INT2 in any case. A file
    with INT2 is of opset 25, the first that has it; every other one is of opset 21.

    With integer io the scale of the int32 outputs is in the metadata.

    Args:
        model: a QDQ model, trainable or finalized.
        output: where to write the file; nothing is written without it.
        data: a path, "digits" or arrays, from which the gate draws images; without it, it compares random and extreme
            integers only, and the certificate says so.
        plain: refuse a network that still has its skip connections.
        cpu: where the file must be exact: on every CPU, or with VNNI.
        weights: how weights are stored; uint8 is exact everywhere, and slower without VNNI.
        io: float: in the place of the original; integer: uint8 pixels to int32 logits.
        integer_only: refuse float nodes between integers; by default with the format integer alone.
        layout: the axes of an integer input.
        format: the form of the exported graph.
        seed: one seed, one result on one machine.

    Returns:
        The exported model, with preprocessing, provenance and certificate in its metadata.

    Raises:
        LoweringError: a layer has no exact integer form; its name and the condition that fails.
        ParityError: an integer differs from the QDQ file's; the first layer where one does.
        ModelError, DataError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> exported = qpipe.export("tuned.qdq.onnx", "net.int8.onnx", format="qoperator", data="digits")
        >>> qpipe.inspect("net.int8.onnx").kind
        'qoperator'
    """

def finetune(
    model: ModelPath | onnx.ModelProto | ir.Model,
    data: DataLike,
    output: ModelPath | None = None,
    *,
    plain: bool = False,
    blocks: str = '*',
    strip: Literal['refit', 'exact', 'cut'] | None = None,
    method: Literal['faq', 'ag'] = 'faq',
    recipe: Literal['faq-8bit', 'faq-4bit', 'faq-4bit-step', 'faq-4bit-growing', 'faq-cifar-8bit', 'faq-cifar-4bit', 'faq-scratch-exp', 'faq-scratch-step', 'distilled-4bit', 'ag', 'ag-binary', 'plain', 'mls-cifar', 'mls-imagenet'] | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    schedule: Literal['constant', 'exponential', 'step', 'linear', 'cosine'] | None = None,
    lr_end: float | None = None,
    warmup: float | None = None,
    milestones: Sequence[float] | None = None,
    grow_at: Sequence[float] | None = None,
    optimizer: Literal['sgd', 'adam'] | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    gradient_clip: float | None = None,
    ema: float | None = None,
    hold_out: float | None = None,
    teacher: str | os.PathLike[str] | None = None,
    teacher_weight: float | None = None,
    temperature: float | None = None,
    auxiliary_weight: float | None = None,
    layerwise: bool | None = None,
    ssp: bool | None = None,
    ssp_ratio: float | None = None,
    ssp_end: float | None = None,
    ssp_fragments: Literal['blocks', 'layers'] | None = None,
    ssp_draws: Literal['apart', 'together'] | None = None,
    fade: float | None = None,
    additional_losses: float | None = None,
    joint_distillation: float | None = None,
    activation_gradient: Literal['codes', 'ymax'] | None = None,
    train_scales: float | None = None,
    freeze_scales: float | None = None,
    dampen_oscillations: float | None = None,
    freeze_oscillations: float | None = None,
    estimate_statistics: bool | None = None,
    batch_norm: Literal['running', 'batch'] = 'batch',
    precision: Literal['fp32', 'bf16'] = 'fp32',
    crop_padding: int | None = None,
    flip: bool | None = None,
    evaluate: bool = True,
    evaluate_every: int | None = None,
    diagnose: bool = False,
    checkpoint_every: int | None = None,
    arithmetic: Literal['float', 'mls'] | None = None,
    element: Sequence[int] | None = None,
    element_weight: Sequence[int] | None = None,
    element_activation: Sequence[int] | None = None,
    element_error: Sequence[int] | None = None,
    group: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_weight: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_activation: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_error: Literal['none', 'n', 'c', 'nc'] | None = None,
    group_format: Sequence[int] | None = None,
    overflow: Literal['carry', 'clip'] | None = None,
    rounding: Literal['stochastic', 'nearest'] | None = None,
    tensor_scale: Literal['float', 'power-of-two'] | None = None,
    low_bit_ends: bool | None = None,
    start: Literal['pretrained', 'random'] = 'pretrained',
    output_name: str | None = None,
    loss: Literal['cross-entropy', 'binary', 'multi-label', 'mse'] | Callable[..., Any] | None = None,
    metric: Literal['top-1', 'top-5', 'accuracy', 'f1', 'mse', 'psnr', 'miou'] | Callable[..., Any] | None = None,
    ignore_label: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    preprocess: PreprocessLike = None,
) -> ir.Model:
    """Train a quantized network straight from its QDQ file, or a float one. Source: FAQ, section 3.3; MLS, section 4.

    With an arithmetic a float network is trained as it is, from pretrained weights or from random ones: "float", or on
    low-bit operands, "mls". What is written is the float network, normalized, and both accuracies are told: its own,
    and that of the low-bit forward. The products of a QDQ file's training may be "mls" too; it evaluates as it is.

    Of several processes (torchrun, accelerate launch) each computes its share of every batch; the main one evaluates
    and writes.

    A recipe (`qpipe/settings/recipes.py`) is a whole run; what is given goes before what it says, and None gives
    nothing. The method "ag" is the auxiliary gradient module (AG, section 3.1), ssp AG's section 3.2, additional_losses
    its equation 3 and joint_distillation its equation 4. Networks are judged on onnxruntime.

    What the network is for (output_name, loss, metric) is derived from its outputs and the labels where these leave one
    reading, and said; a loss can also be a function of `(outputs, labels)`, torch tensors, that gives a number, and a
    metric one of all outputs and labels, numpy arrays.

    Args:
        model: what `calibrate` or an earlier `finetune` wrote; with `plain` a float network too, which is calibrated to
            8 bits; with an arithmetic a float network, which stays one (with `plain` too where that is "float").
        data: labelled, unless a teacher is given; the training split is trained on, the test split evaluated.
        output: where to write the trained file.
        preprocess: what pixels go through; None is what the model carries.
        plain: strip the skip connections, and go on without them.
        blocks: the residual blocks to strip with plain, as layer3.*,layer4.0.
        strip: how, with plain: refit what is left by least squares; exact: carried in more channels, no value changes;
            cut: nothing else changes; by default refit, and cut where weights are random or skips fade.
        method: the training method: FAQ's, or with AG's auxiliary gradients.
        recipe: values for every option from epochs to joint distillation; by default plain where skips are stripped,
            mls-cifar of a float network, else faq-8bit, or ag with the method ag.
        epochs: passes over the training images; a recipe's schedule keeps its proportions.
        lr: learning rate, at first.
        schedule: how the learning rate falls: by one factor an epoch from lr to lr_end, by 10 at each milestone, or at
            every update, linearly or along half a cosine.
        lr_end: the rate at the end of the schedule; linear and cosine end at 0 by default.
        warmup: epochs over which the rate rises linearly from 0, at first.
        milestones: epochs at which a step schedule divides the rate by 10, as in 30,60,90.
        grow_at: epochs at which batches double, by averaging gradients over twice as many.
        optimizer: what applies the gradients.
        momentum: momentum of SGD.
        weight_decay: weight decay of the optimizer.
        batch_size: images in a batch, over all processes together.
        gradient_clip: the longest gradient of a channel's weights, in their own length; 0: any.
        ema: decay of a moving average of the weights, which is what is written, with statistics estimated anew; 0.999
            is usual; 0: the weights themselves.
        hold_out: the part of the training images that is not trained on: the epoch that is best on it is written; 0:
            none, and the last epoch is.
        teacher: distil from 'float', the network before it was quantized, or an .onnx; or 'none'.
        teacher_weight: the teacher's part of the loss.
        temperature: what distillation divides the logits by.
        auxiliary_weight: lambda of AG: the weight of its auxiliary network's loss.
        layerwise: AG: a branch at every convolution of a block.
        ssp: stochastic structured precision.
        ssp_ratio: delta of SSP at first: how much is left unquantized.
        ssp_end: the part of the run after which delta is 0.
        ssp_fragments: what SSP draws: residual blocks, or layers.
        ssp_draws: SSP: draws for weights and activations apart, or one for both.
        fade: the part of the run over which skips that were cut fade away, with plain; 0: they are gone at once.
        additional_losses: alpha: the weight of losses at the end of each downsampling block, the paper's is 0.01; 0:
            none.
        joint_distillation: beta: how much a full-precision copy that trains along guides, 0.1 is a start; 0: no copy.
        activation_gradient: where an activation's gradient ends: at the largest code, or one step beyond, at ymax.
        train_scales: rate at which activations' scales learn, as a part of lr: 1 is that of LSQ; 0: they stay.
        freeze_scales: the part of the run after which scales that train stay.
        dampen_oscillations: lambda: at the end, the weight of a loss that draws weights to the middle of their bins,
            0.1 is a start; 0: none.
        freeze_oscillations: the frequency of oscillations above which, at the end, a weight is frozen, 0.01 is a start;
            0: none is.
        estimate_statistics: estimate the statistics of BatchNormalizations anew when training is over.
        batch_norm: the statistics that training normalizes by.
        precision: of training's float tensors; evaluation and export are exact in both.
        crop_padding: black pixels around an image before the random crop; by default an eighth of the side, where data
            are images.
        flip: random horizontal flip; by default where data are images.
        evaluate: count the accuracy before and after.
        evaluate_every: count the accuracy after every so many epochs.
        diagnose: measure the noise of quantization, for `qpipe report`.
        checkpoint_every: updates between checkpoints; there is one after every epoch anyway.
        arithmetic: of training's products: mls, on low-bit weights, activations and errors, or, of a float network,
            float; by default what a QDQ file says.
        element: bits of an element's exponent and mantissa, as in 2,1; 0,4 is fixed point.
        element_weight: those of the weights, where they differ.
        element_activation: those of the activations, where they differ.
        element_error: those of the errors, where they differ.
        group: what has a scale of its own beside the tensor's: the parts along its first axis (n), its second (c), or
            both; of weights these are output and input channels, of errors samples and output channels.
        group_weight: that of the weights, where it differs.
        group_activation: that of the activations, where it differs.
        group_error: that of the errors, where it differs.
        group_format: bits of exponent and mantissa of a group's scale; the mantissa has 0 or 1.
        overflow: a fraction that rounds up to 2 goes on to the next exponent, or is clipped as in the paper.
        rounding: of training's operands; evaluation rounds to nearest.
        tensor_scale: the scale of a whole tensor: its largest magnitude, or the power of two above.
        low_bit_ends: the first and the last layer are low-bit too.
        start: random: forget a float network's weights, to train it from scratch.
        output_name: the output of the network that counts.
        loss: what training minimizes; by default what the output and the labels leave.
        metric: what the network is judged by; by default that of the loss.
        ignore_label: the class in label maps, as 255, that neither loss nor metric counts.
        seed: one seed, one result on one machine.
        checkpoint: file that keeps the state of the run.
        resume: go on from the checkpoint.

    Returns:
        The trained model; its metadata `qpipe.training` hold losses and accuracies.

    Raises:
        ModelError, DataError, RecipeError, OutputError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> tuned = qpipe.finetune("net.qdq.onnx", "digits", "tuned.qdq.onnx", epochs=1, flip=False)
        >>> qpipe.inspect("tuned.qdq.onnx").kind
        'QDQ, trainable'
    """

def inspect(
    model: ModelLike,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Inspection:
    """Say what a model is made of, and which nodes have no integer form: all of them, each with what to do.

    Those that integers follow stay float in the files, as islands (role "float island"), unless an export is told to
    refuse that. A network without any layer of weights that has an integer form can't be calibrated.

    Args:
        model: float, QDQ or exported: an .onnx path, a ModelProto, an onnx_ir.Model, a torch module, or
            `package.module:factory`.
        weights: weights of a PyTorch model: a .safetensors, or a .pth file.
        input_shape: sizes of an input to compute at, as x=3,224,224, or x=1,3,224,224 with the batch; may be given
            again; an only input needs no name. A PyTorch model needs them, without the batch.

    Raises:
        ModelError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.inspect("net.onnx")
        >>> report.kind, report.ready, report.ops["Conv"]
        ('float', True, 3)
    """

def report(
    runs: ModelPath | Sequence[ModelPath],
    output: ModelPath | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    float_accuracy: float | None = None,
) -> Report:
    """Draw finished runs: curves, the FAQ paper's figures, certificate and provenance, on one page of HTML.

    Several runs are drawn over each other. The page needs no network, and no other file.

    Args:
        runs: files that `finetune` or `export` wrote, or folders of `qpipe run`.
        output: where to write the page.
        names: what the page calls the runs, in their order; by default the names of files and folders.
        title: the page's title.
        float_accuracy: top-1 of the float network, of 1, where no file tells it.

    Raises:
        ModelError, OutputError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> page = qpipe.report("tuned.qdq.onnx", "report.html")
        >>> [run.name for run in page.runs], page.html.startswith("<!DOCTYPE html>")
        (['tuned'], True)
    """

def validate(
    models: Sequence[OnnxModel],
    data: DataLike,
    *,
    batch_size: int = 256,
    split: Literal['train', 'val', 'test'] = 'test',
    limit: int | None = None,
    output_name: str | None = None,
    loss: Literal['cross-entropy', 'binary', 'multi-label', 'mse'] | Callable[..., Any] | None = None,
    metric: Literal['top-1', 'top-5', 'accuracy', 'f1', 'mse', 'psnr', 'miou'] | Callable[..., Any] | None = None,
    ignore_label: int | None = None,
    preprocess: PreprocessLike = None,
) -> ValidationReport:
    """Run models on the same images and compare: the task's metric, outputs, integers, certificates.

    What the models are for is derived and said, or asked for, as `finetune` does.

    Args:
        models: float, QDQ or exported, with float or integer inputs. A trainable QDQ model is finalized in memory, and
            a note says so: as it lies its outputs are near what is measured here, not equal.
        data: with labels, or without; then nothing is judged, and models are compared alone.
        preprocess: what pixels go through; None is what the models carry.
        batch_size: images in a batch.
        split: the part of the data.
        limit: compare on the first images only.
        output_name: the output of the network that counts.
        loss: what training minimizes; by default what the output and the labels leave.
        metric: what the network is judged by; by default that of the loss.
        ignore_label: the class in label maps, as 255, that neither loss nor metric counts.

    Returns:
        One row for each model; `ok` is False where integers differ between models that were made from one QDQ file, or
        where a certificate does not hold.

    Raises:
        ModelError, DataError, RecipeError: in one line, naming what is wrong.

    Example:
        >>> import qpipe
        >>> report = qpipe.validate(["net.onnx", "net.qdq.onnx"], "digits", limit=100)
        >>> report.ok, report.images, [row.kind for row in report.rows]
        (True, 100, ['float', 'QDQ, trainable'])
    """
