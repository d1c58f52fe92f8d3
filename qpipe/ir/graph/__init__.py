"""A float or quantized graph as layers, residual blocks, and what single layers are told."""
