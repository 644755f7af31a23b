"""Pixels: from an image file to an RGB array."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tlbench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_opening = threading.Lock()
"""Filters of warnings belong to the process: threads that change and restore them take turns."""


IN_WORDS = (
    "Decode the file to 8-bit RGB: the first frame of an animation, turned as its EXIF orientation says, 16-bit grey "
    "divided by 257, white where it is transparent."
)
"""What `decode` does, for who has to do the same with another program."""


def read(path: Path) -> np.ndarray:
    """The image in the file at `path`, as `decode` gives it. Raises `DataError`, which names the file."""
    try:
        return decode(path.read_bytes())
    except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
        raise DataError(f"{path} does not decode: {reason(error)}") from error


def decode(data: bytes) -> np.ndarray:
    """The image in `data` as uint8 RGB [height, width, 3], upright.

    The first frame of an animation; 16-bit grey scaled to 8 bits; transparency over white. Raises what Pillow raises
    for data it cannot decode completely, and `ValueError` for pixels without a fixed range.
    """
    from PIL import Image

    if not data:
        raise ValueError("empty file")
    with _opening, warnings.catch_warnings():
        # Pillow warns from 89 million pixels on, which telephones take, and refuses twice as many.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(data))
    with opened as image:
        return from_image(image)


def from_image(image: Image.Image) -> np.ndarray:
    """An image of Pillow's, as `decode` gives the one in a file; raises what `decode` raises."""
    import numpy as np
    from PIL import ImageOps

    return np.array(_rgb(ImageOps.exif_transpose(image)))


def reason(error: Exception) -> str:
    """Why a file does not decode, in words that do not vary from run to run."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels (decompression bomb): {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return str(error) or type(error).__name__


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range: convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 0 to 65535 as 0 to 255; Pillow's own conversion clips at 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    lowest, highest = int(np.min(values)), int(np.max(values))
    if lowest < 0 or highest > 65535:
        raise ValueError(f"32-bit pixels from {lowest} to {highest}: convert the file to 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
