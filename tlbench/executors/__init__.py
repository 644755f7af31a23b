"""Executors: who runs the jobs that a search hands out."""
