"""Activation ranges from data: exact percentiles in constant memory."""
