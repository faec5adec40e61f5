"""Named child seeds: every random decision has its own generator, so that resuming replays nothing twice."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def child_seed(*names: str | int) -> int:
    """A 63-bit seed from a path of names such as `("quickstart", "baseline", 0, "sample", step)`.

    Hashing the path (rather than counting draws) makes a step's randomness independent of what ran before it.
    """
    # The separator and the type tag keep ("a", "bc") apart from ("ab", "c") and 1 apart from "1".
    path = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def numpy_generator(*names: str | int) -> np.random.Generator:
    """A numpy generator seeded by the path of names."""
    return np.random.default_rng(child_seed(*names))


def torch_generator(*names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` seeded by the path of names."""
    import torch

    return torch.Generator(device=device).manual_seed(child_seed(*names))
