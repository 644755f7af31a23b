"""The first-party plugin `basic`."""
