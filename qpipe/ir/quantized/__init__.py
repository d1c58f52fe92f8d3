"""The QDQ graph: its quantizers, its weights, the plan that makes it, the view that reads it, the proof of it."""
