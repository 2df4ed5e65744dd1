"""Choice of the device and of the precision, and torch in forked processes.

The threads of a process do not go with a fork, and torch would wait for them for ever: in forked children (Gymnasium's
`AsyncVectorEnv`, workers of a pool) torch computes with one thread.
"""

from __future__ import annotations

import logging
import os

import torch

log = logging.getLogger(__name__)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Resolves "auto" to the best device that exists, and a CUDA device that does not exist to the CPU.

    Args:
        device: "auto", or anything that `torch.device` takes.

    Returns:
        A device that can be used here.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and not torch.cuda.is_available():
        log.warning("device %s does not exist here; using the cpu", resolved)
        return torch.device("cpu")
    return resolved


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and torch.backends.mkldnn.is_available():
        return torch.bfloat16
    return torch.float32
