"""The first-party plugin `data`."""
