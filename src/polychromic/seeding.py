"""Makes two runs of one arm and seed the same bits: named child seeds, and sums that are added in one order.

Every random decision has a generator of its own, so that resuming replays nothing twice; and what trains or samples
does it inside `deterministic()`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np


def child_seed(*names: str | int) -> int:
    """Derives a 63-bit seed from a path of names such as `("quickstart", "baseline", 0, "sample", step)`.

    Hashing the path (rather than counting draws) makes a step's randomness independent of what ran before it.
    """
    # The separator and the type tag keep ("a", "bc") apart from ("ab", "c") and 1 apart from "1".
    path = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def numpy_generator(*names: str | int) -> np.random.Generator:
    """Makes a numpy generator seeded by the path of names."""
    return np.random.default_rng(child_seed(*names))


CUBLAS, CUBLAS_SETTING = "cuBLAS", "CUBLAS_WORKSPACE_CONFIG=:4096:8"
"""The library of CUDA's matrix products, and the variable that makes it add in one order."""


@contextmanager
def deterministic(threads: int | None = None, *, strict: bool = False) -> Iterator[None]:
    """Makes the same work give the same bits while the block runs, on `threads` threads (as many as before where None).

    Torch's fast gradient of an indexed read adds up in whatever order threads arrive; its deterministic one does not.
    Some operations have no deterministic version on CUDA: there the fast one is taken, or, where `strict`, torch
    raises a RuntimeError that `refused_operation` knows.
    """
    import torch

    # Read when CUDA's matrix products are first used; without it their sums may be split by how busy the device is.
    os.environ.setdefault(*CUBLAS_SETTING.split("="))
    warn_only = torch.cuda.is_available() and not strict
    before = torch.get_deterministic_debug_mode()
    filling: Any = torch.utils.deterministic
    filled, threads_before = filling.fill_uninitialized_memory, torch.get_num_threads()
    # `torch.use_deterministic_algorithms` sets the same and imports the compiler, which takes seconds.
    torch.set_deterministic_debug_mode("warn" if warn_only else "error")
    filling.fill_uninitialized_memory = False  # nothing here reads what it has not written
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings() if warn_only else nullcontext():
            if warn_only:
                warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        filling.fill_uninitialized_memory = filled
        if threads is not None:
            torch.set_num_threads(threads_before)


def refused_operation(error: RuntimeError) -> str:
    """Returns the operation that torch refused because it has no deterministic version here; empty where `error` is
    another one.

    Matrix products are among them where cuBLAS was used, by whoever shares this process, before its workspace was set.
    """
    message = str(error)
    if "does not have a deterministic implementation" in message:
        return message.split(maxsplit=1)[0]
    return CUBLAS if "CUBLAS_WORKSPACE_CONFIG" in message else ""
