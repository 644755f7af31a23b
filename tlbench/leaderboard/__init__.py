"""Leaderboard: a view computed from stored measurements. The engine's door to pandas."""
