"""The noise of quantization while a network trains: FAQ, Figures 1 and 2, and signal-to-noise ratios."""
