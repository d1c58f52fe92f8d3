"""Where networks and images come from, what makes an image the network's input, and what a run starts from."""

from typing import Any, Literal

from pydantic import Field

from qpipe.settings.base import FilePath, Floats, InputShapes, Settings


class TorchSettings(Settings):
    """What a model needs besides its name."""

    weights: FilePath | None = Field(
        default=None, description="weights of a PyTorch model: a .safetensors, or a .pth file"
    )
    input_shape: InputShapes | None = Field(
        default=None,
        description="sizes of an input to compute at, as x=3,224,224, or x=1,3,224,224 with the batch; may be given "
        "again; an only input needs no name. A PyTorch model needs them, without the batch",
    )


class ModelSettings(TorchSettings):
    """Where the float network comes from."""

    path: str = Field(description="an .onnx file, package.module:factory, torchvision:NAME or timm:NAME")


class DataSettings(Settings):
    """Where images and labels come from."""

    path: str = Field(description="a folder of class folders, an .npz, digits, or package.module:factory")


class PreprocessSettings(Settings):
    """What makes an image the network's input; what is not given is what the model's file says."""

    mean: Floats | None = Field(default=None, description="mean of each channel, of pixels / 255 * pixel_range")
    std: Floats | None = Field(default=None, description="standard deviation of each channel, as mean")
    resize: int | None = Field(default=None, ge=1, description="resize the short side to this many pixels")
    crop: int | None = Field(default=None, ge=1, description="crop this many pixels square from the centre")
    color: Literal["RGB", "BGR", "GRAY"] | None = Field(default=None, description="the order of the channels")
    layout: Literal["NCHW", "NHWC"] | None = Field(default=None, description="the order of the input's axes")
    pixel_range: Literal[1, 255] | None = Field(default=None, description="a white pixel before mean and std: 1 or 255")

    def overrides(self) -> dict[str, Any] | None:
        """The fields that were given, under the names that the verbs know, or None where none was."""
        given = {name: value for name, value in self.arguments().items() if value is not None}
        if "pixel_range" in given:
            given["pixel_max"] = given.pop("pixel_range")
        return given or None


class SeedSettings(Settings):
    """What random draws depend on."""

    seed: int = Field(default=0, ge=0, description="one seed, one result on one machine")


class CheckpointSettings(Settings):
    """Where a long run may go on."""

    checkpoint: FilePath | None = Field(default=None, description="file that keeps the state of the run")
    resume: bool = Field(default=False, description="go on from the checkpoint", json_schema_extra={"off": ""})
