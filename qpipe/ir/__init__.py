"""ONNX models, from files to quantized layers."""
