"""Refuses system calls that a program of a model has no use for, through libseccomp, where it is installed.

They reach other processes, the kernel's configuration, or other machines; most ways out of a process begin with one.
Package `pyseccomp` (extra `sandbox`) and the system's library libseccomp; without them nothing is refused here.
"""

from __future__ import annotations

import errno
from functools import cache
from typing import Any

_REFUSED = (
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise",
    # files and namespaces
    "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_by_handle_at", "quotactl", "swapon",
    "swapoff", "move_mount", "open_tree", "fsopen", "fsmount", "mknod", "mknodat",
    # the kernel
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load",
    "kexec_file_load", "init_module", "finit_module", "delete_module", "keyctl", "add_key", "request_key", "syslog",
    "acct", "reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "lookup_dcookie",
    "fanotify_init", "vhangup", "move_pages", "mbind", "migrate_pages",
)  # fmt: skip


@cache
def prepared() -> Any:
    """Returns the filter, made once before processes are forked; None where the library is missing."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    filtered = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _REFUSED:
        try:
            filtered.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
        except (OSError, ValueError):  # a call that this system, or this version of the library, does not have
            continue
    # Not even those of this machine: a socket in a file may belong to a service with rights. Pairs stay.
    filtered.add_rule(pyseccomp.ERRNO(errno.ENETUNREACH), "socket")
    return filtered


def refuse_calls() -> list[str]:
    """Refuses the calls to this process and all that it starts, for good; returns in words what is protected then."""
    filtered = prepared()
    if filtered is None:
        return []
    try:
        filtered.load()
    except OSError:  # the kernel has no filters
        return []
    return ["fewer system calls", "no network"]
