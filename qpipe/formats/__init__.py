"""Number formats of weights, one a file; `table.FORMATS` has them by these names.

A new format is a subclass of `base.WeightFormat` in a file of its own, its name here, and its class in the table.
Importing this costs nothing: settings and the command line read the names before anything is computed.
"""

from typing import Final, Literal

WeightQuantizer = Literal["fixed-point", "dorefa", "lq", "bireal", "groupnet"]

DEFAULT: Final[WeightQuantizer] = "fixed-point"
