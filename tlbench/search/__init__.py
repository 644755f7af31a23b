"""Search: what to try next. The engine's door to Optuna."""
