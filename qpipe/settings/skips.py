"""Whether skip connections are to go, and how."""

from typing import Literal, Self

from pydantic import Field, model_validator

from qpipe.settings.base import Settings, shown

Stripping = Literal["refit", "exact", "cut"]


class SkipSettings(Settings):
    """Which residual blocks lose their skips."""

    plain: bool = Field(default=False, description="strip the skip connections, and go on without them")
    blocks: str = Field(default="*", description="the residual blocks to strip with plain, as layer3.*,layer4.0")
    strip: Stripping | None = Field(
        default=None,
        description="how, with plain: refit what is left by least squares; exact: carried in more channels, no value "
        "changes; cut: nothing else changes; by default refit, and cut where weights are random or skips fade",
    )

    @model_validator(mode="after")
    def _blocks_are_stripped(self) -> Self:
        default = SkipSettings.model_fields
        for name in ("blocks", "strip"):
            if not self.plain and (value := getattr(self, name)) != default[name].default:
                raise ValueError(f"{name}: {shown(value)}, but without effect, expected it together with plain")
        return self
