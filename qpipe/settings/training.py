"""How a QDQ network is trained."""

from typing import Literal

from pydantic import Field

from qpipe.finetune_recipes import Draws, Fragments, Method, Optimizer, Precision, RecipeName, ScheduleName
from qpipe.settings.base import Epochs, Settings


class FinetuneSettings(Settings):
    """QDQ network (or float, with plain) -> trained QDQ network. What is not given is what the training recipe says."""

    method: Method = Field(default="faq", description="the training method: FAQ's, or with AG's auxiliary gradients")
    plain: bool = Field(default=False, description="strip the skip connections, and train without them")
    blocks: str = Field(default="*", description="the residual blocks to strip with --plain, as layer3.*,layer4.0")
    recipe: RecipeName | None = Field(
        default=None,
        description="values for every option below; by default plain where skips are stripped, else faq-8bit, "
        "or ag with --method ag",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="passes over the training images; a recipe's schedule keeps its proportions"
    )
    lr: float | None = Field(default=None, gt=0, description="learning rate, at first")
    schedule: ScheduleName | None = Field(default=None, description="how the learning rate falls")
    lr_end: float | None = Field(default=None, gt=0, description="the rate at the end of the schedule")
    milestones: Epochs | None = Field(
        default=None, description="epochs at which a step schedule divides the rate by 10, as in 30,60,90"
    )
    grow_at: Epochs | None = Field(
        default=None, description="epochs at which batches double, by averaging gradients over twice as many"
    )
    optimizer: Optimizer | None = Field(default=None, description="what applies the gradients")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay of the optimizer")
    batch_size: int | None = Field(default=None, ge=1, description="images in a batch, over all processes together")
    gradient_clip: float | None = Field(
        default=None, ge=0, description="the longest gradient of a channel's weights, in their own length; 0: any"
    )
    teacher: str | None = Field(
        default=None, description="distil from 'float', the network before it was quantized, or an .onnx; or 'none'"
    )
    teacher_weight: float | None = Field(default=None, ge=0, le=1, description="the teacher's part of the loss")
    temperature: float | None = Field(default=None, gt=0, description="what distillation divides the logits by")
    auxiliary_weight: float | None = Field(
        default=None, gt=0, description="lambda of AG: the weight of its auxiliary network's loss"
    )
    layerwise: bool | None = Field(default=None, description="AG: a branch at every convolution of a block")
    ssp: bool | None = Field(default=None, description="stochastic structured precision")
    ssp_ratio: float | None = Field(
        default=None, ge=0, le=1, description="delta of SSP at first: how much is left unquantized"
    )
    ssp_end: float | None = Field(default=None, gt=0, le=1, description="the part of the run after which delta is 0")
    ssp_fragments: Fragments | None = Field(default=None, description="what SSP draws: residual blocks, or layers")
    ssp_draws: Draws | None = Field(
        default=None, description="SSP: draws for weights and activations apart, or one for both"
    )
    fade: float | None = Field(
        default=None, ge=0, le=1, description="the part of the run over which stripped skips fade away, with --plain"
    )
    additional_losses: float | None = Field(
        default=None, ge=0, description="alpha: the weight of losses at the end of each downsampling block; 0: none"
    )
    joint_distillation: float | None = Field(
        default=None, ge=0, description="beta: how much a full-precision copy that trains along guides; 0: no copy"
    )
    batch_norm: Literal["running", "batch"] = Field(
        default="batch", description="the statistics that training normalizes by"
    )
    precision: Precision = Field(
        default="fp32", description="of training's float tensors; evaluation and export are exact in both"
    )
    crop_padding: int | None = Field(
        default=None,
        ge=0,
        description="black pixels around an image before the random crop; by default where data are images",
    )
    flip: bool | None = Field(default=None, description="random horizontal flip; by default where data are images")
    evaluate: bool = Field(default=True, description="count the accuracy before and after")
    evaluate_every: int | None = Field(default=None, ge=1, description="count the accuracy after every so many epochs")
    diagnose: bool = Field(default=False, description="measure the noise of quantization, for `qpipe report`")
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="updates between checkpoints; there is one after every epoch anyway"
    )
