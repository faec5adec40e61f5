"""Opens pools of worker processes that never outlive the process that opened them."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any


def open_worker_pool(
    workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Opens a pool whose processes call `start(*arguments)` before any work, and end at once when this process is gone.

    Spawned, because a process that has loaded torch or a tokenizer must not be forked. A script that calls this needs
    no `if __name__ == "__main__"`: its processes do not import it.
    """
    return ProcessPoolExecutor(workers, mp_context=_Context(), initializer=_start_worker, initargs=(start, arguments))


class _Process(SpawnProcess):
    """A process that does not run the user's script again, which would begin the same work there."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  # multiprocessing's own name
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # without a file there is nothing to import
        try:
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
        finally:
            sys.modules["__main__"] = script


class _Context(SpawnContext):
    Process = _Process


def _start_worker(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of a terminal, but when work ends is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone: left alone it would wait for work, or write, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def free_device_memory() -> None:
    """Gives back the memory of a GPU that torch keeps for later: other processes have none of it otherwise."""
    torch = sys.modules.get("torch")  # where it is not loaded there is nothing to give back
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def launcher_place() -> tuple[int, int]:
    """Returns this process's rank and how many `accelerate launch` or `torchrun` started; (0, 1) without one."""
    stated = [os.environ.get(name, "") for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE")]
    return (int(stated[1]), int(stated[2])) if all(stated) else (0, 1)


def is_launched() -> bool:
    """Tells whether this process is one of several that a launcher started."""
    return launcher_place()[1] > 1
