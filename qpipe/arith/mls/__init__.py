"""Multi-level scaling (MLS): the low-bit floating point in which a network's convolutions are trained.

Exploring the Potential of Low-bit Training of Convolutional Neural Networks, sections 3 and 4.

- `formats`: the three levels of a format (element, group, tensor) and the grouping, as data
- `quantize`: dynamic quantization of a tensor (Algorithm 1), in torch
- `layout`: how a tensor and its groups lie in memory, and the pieces in which it is quantized
- `rounding`: to the grid of an element format, in place
- `packing`: the bits that hardware would store, and back
- `accumulator`: how wide the sums of the three convolutions become
- `exact`, `convolutions`: these convolutions in big integers
- `generators`: where the bits of stochastic rounding come from
"""
