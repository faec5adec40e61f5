"""Threads that stand for the processes of `torch.distributed`: nothing is started, and the real messages are sent."""

import copy
import threading

import torch

from polychromic.seeding import deterministic
from polychromic.training.parallel import Processes


class ThreadsAsProcesses:
    """Does what `torch.distributed` does between processes, between threads. One runs at a time, until it exchanges."""

    def __init__(self, size):
        self.turn = threading.Lock()
        self.size, self.local, self.barrier = size, threading.local(), threading.Barrier(size, timeout=120)
        self.shared = [None] * size

    def exchange(self, value):
        self.shared[self.local.rank] = copy.deepcopy(value)
        self._wait()
        everything = list(self.shared)
        self._wait()
        return everything

    def _wait(self):
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()

    def all_gather_object(self, parts, value, group):
        parts[:] = self.exchange(value)

    def broadcast_object_list(self, box, src, group):
        box[:] = self.exchange(list(box))[src]

    def all_reduce(self, tensor):
        tensor.copy_(torch.stack(self.exchange(tensor)).sum(0))

    def run(self, work):
        results, errors = [None] * self.size, []

        def one(rank):
            self.local.rank = rank
            with self.turn:
                try:
                    results[rank] = work(Processes(rank, self.size))
                except Exception as error:  # noqa: BLE001 - raised in the test's own thread
                    errors.append(error)
                    self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        with deterministic():  # what the threads leave of it ends here
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        return results
