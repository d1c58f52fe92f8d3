"""ONNX files: read, checked, upgraded, written; what a model carries about itself."""
