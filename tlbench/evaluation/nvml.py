"""NVML: NVIDIA's own view of a GPU."""

from __future__ import annotations

from typing import Any

import torch


def open_nvml(device: torch.device) -> tuple[Any, Any]:
    """The library `pynvml`, at work, and its handle of a GPU. Raises whatever library and driver do."""
    import pynvml

    pynvml.nvmlInit()
    # By its own name: CUDA numbers the GPUs that it is let see, NVML all.
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
