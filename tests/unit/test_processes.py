"""Workers of a pool end with the process that opened it, and leave Ctrl-C to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polychromic.evaluation.measure import open_pool
from polychromic.processes import open_worker_pool

OPENER = """
import os, time
from polychromic.processes import open_worker_pool
if __name__ == "__main__":
    pool = open_worker_pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    {then}
    time.sleep(60)
"""


def lives(process):
    """Says whether it runs; an ended one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("then", ["", "pool.submit(time.sleep, 60)"], ids=["waiting", "working"])
def test_workers_end_with_a_killed_parent(tmp_path, then):
    """Past bug: a run killed while it measured left its measuring processes waiting for work for ever."""
    script = tmp_path / "opener.py"
    script.write_text(OPENER.format(then=then))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as opener:
        assert opener.stdout is not None
        worker = int(opener.stdout.readline())
        assert lives(worker)
        opener.kill()
        opener.wait()
        deadline = time.monotonic() + 10
        while lives(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not lives(worker)


def test_ctrl_c_is_the_parents():
    with open_worker_pool(1) as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert pool.submit(os.getpid).result() == worker


def test_the_measuring_pool_is_such_a_pool():
    with open_pool(2) as pool:
        assert pool is not None
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
