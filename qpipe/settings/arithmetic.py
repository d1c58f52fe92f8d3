"""What the products of a training step are computed on: tensors as they are, or low-bit ones.

Source: *Exploring the Potential of Low-bit Training of Convolutional Neural Networks*, sections 3 and 4 (MLS).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, Grouping, MlsFormat, Overflow
from qpipe.arith.mls.generators import Role
from qpipe.settings.base import Settings, shown
from qpipe.settings.said_by_recipe import OfMls

Arithmetic = Literal["float", "mls"]
Rounding = Literal["stochastic", "nearest"]


def _an_element(value: Any, info: ValidationInfo) -> Any:
    return _checked(value, ElementFormat, info)


def _a_group(value: Any, info: ValidationInfo) -> Any:
    return _checked(value, GroupFormat, info)


def _checked(value: Any, kind: type[ElementFormat | GroupFormat], info: ValidationInfo) -> Any:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or len(value) != 2 or not all(type(number) is int for number in value):
        found = ",".join(map(str, value)) if is_list else value
        raise ValueError(f"{info.field_name}: {shown(found)}, expected bits of exponent and mantissa, as in 2,1")
    try:
        kind(*value)
    except ValueError as error:
        # It begins with the kind, which the option's name says.
        raise ValueError(f"{info.field_name}: {str(error).partition(' ')[2]}") from error
    return value


_Element = Annotated[tuple[int, int], Strict(False), BeforeValidator(_an_element)]
_Group = Annotated[tuple[int, int], Strict(False), BeforeValidator(_a_group)]

# Options that several verbs have, with their words.
Element = Annotated[
    _Element, Field(description="bits of an element's exponent and mantissa, as in 2,1; 0,4 is fixed point")
]
ElementWeight = Annotated[_Element | None, Field(description="those of the weights, where they differ")]
ElementActivation = Annotated[_Element | None, Field(description="those of the activations, where they differ")]
ElementError = Annotated[_Element | None, Field(description="those of the errors, where they differ")]
Group = Annotated[
    Grouping,
    Field(
        description="what has a scale of its own beside the tensor's: the parts along its first axis (n), its second "
        "(c), or both; of weights these are output and input channels, of errors samples and output channels",
    ),
]
GroupWeight = Annotated[Grouping | None, Field(description="that of the weights, where it differs")]
GroupActivation = Annotated[Grouping | None, Field(description="that of the activations, where it differs")]
GroupError = Annotated[Grouping | None, Field(description="that of the errors, where it differs")]
GroupWidths = Annotated[
    _Group, Field(description="bits of exponent and mantissa of a group's scale; the mantissa has 0 or 1")
]
LowBitEnds = Annotated[bool, Field(description="the first and the last layer are low-bit too")]


class ArithmeticSettings(Settings):
    """The arithmetic of training's products, forward and backward."""

    arithmetic: Arithmetic | None = Field(
        default=None,
        description="of training's products: mls, on low-bit weights, activations and errors, or, of a float network, "
        "float; by default what a QDQ file says",
    )
    element: OfMls[Element] = (2, 4)
    element_weight: OfMls[ElementWeight] = None
    element_activation: OfMls[ElementActivation] = None
    element_error: OfMls[ElementError] = None
    group: OfMls[Group] = "nc"
    group_weight: OfMls[GroupWeight] = None
    group_activation: OfMls[GroupActivation] = None
    group_error: OfMls[GroupError] = None
    group_format: OfMls[GroupWidths] = (8, 1)
    overflow: OfMls[Overflow] = Field(
        default="carry",
        description="a fraction that rounds up to 2 goes on to the next exponent, or is clipped as in the paper",
    )
    rounding: OfMls[Rounding] = Field(
        default="stochastic", description="of training's operands; evaluation rounds to nearest"
    )
    tensor_scale: OfMls[Literal["float", "power-of-two"]] = Field(
        default="float", description="the scale of a whole tensor: its largest magnitude, or the power of two above"
    )
    low_bit_ends: OfMls[LowBitEnds] = False

    def format_of(self, role: Role) -> MlsFormat:
        """How every layer's tensors of this role are quantized."""
        element, grouping = getattr(self, f"element_{role}"), getattr(self, f"group_{role}")
        return MlsFormat(
            ElementFormat(*(element or self.element)),
            grouping or self.group,
            GroupFormat(*self.group_format),
            self.overflow,
            self.tensor_scale == "power-of-two",
        )
