"""What a quantized number is. Imports nothing of qpipe but its errors.

- `spec`: the grid of a tensor (exponent, integer range, zero point)
- `namespace`: the primitives that all of it is written in, and the types of arrays
- `quantize`: real numbers to integers and back, requantization of an accumulator, rounding division
- `weights`: weights as matrices, and the pair condition
- `multiplier`: batch normalization as an 8-bit multiplier, a shift and an int32 bias
- `certificate`: the exactness condition, proven per channel
- `symbolic`: the ONNX interpreter of the arithmetic
- `mls`: the low-bit floating point in which convolutions are trained, and their exact integers

Everything numeric is written once, over `namespace`'s primitives and Python's operators, and interpreted by the library
of the arrays that it gets: numpy (the oracle), torch (the simulation), ONNX (the lowering).
"""
