"""Running models on onnxruntime: sessions, accuracy, latency, memory, and what the CPU is.

- `session`: open a model and run arrays through it
- `outputs`: what a model takes and gives, float or integer
- `accuracy`: top-1, top-5, agreement and equality of any number of models
- `latency`, `memory`: how long a model takes, and how much memory
- `cpu`: which CPU this is, and whether its 8-bit products are exact
"""
