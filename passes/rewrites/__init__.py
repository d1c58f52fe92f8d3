"""Exact rewrites of a float network, which `passes/normalize.py` runs: one spelling of each thing that networks say."""
