"""Evaluation: one job, names in, measurement out. The engine's door to torch."""
