"""The first-party plugin `timm`."""
