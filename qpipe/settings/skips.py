"""Whether skip connections are to go."""

from typing import Self

from pydantic import Field, model_validator

from qpipe.settings.base import Settings, shown


class SkipSettings(Settings):
    """Which residual blocks lose their skips."""

    plain: bool = Field(default=False, description="strip the skip connections, and go on without them")
    blocks: str = Field(default="*", description="the residual blocks to strip with plain, as layer3.*,layer4.0")

    @model_validator(mode="after")
    def _blocks_are_stripped(self) -> Self:
        if self.blocks != "*" and not self.plain:
            raise ValueError(f"blocks: {shown(self.blocks)}, but without effect, expected it together with plain")
        return self
