"""Splits: the names under which training, validation and test data are found."""

from __future__ import annotations

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of folders, of files without their endings and of a hub's splits, in any case, and the split they hold."""
