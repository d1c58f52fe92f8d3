"""The embedded default: a small ResNet on scikit-learn's digits, from training to the integer files."""
