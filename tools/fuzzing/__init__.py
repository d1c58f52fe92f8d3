"""Damaged inputs for every command: one file a kind of damage, and what runs and judges them."""
