"""Observers: results told to the trackers that others use, when asked for. Each is a plugin of its own."""
