"""Keeps a checker's process apart from ours, and ends whatever it has started, wherever that has gone.

A *subreaper* is the process that orphans are handed to (prctl(2)): a daemon may leave its process group, its session
and its environment, but not the tree below the subreaper. Linux only; elsewhere only the process group is ended.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
_PR_SET_NO_NEW_PRIVS = 38
_NAMESPACES = {"user": 0x10000000, "processes": 0x20000000, "network": 0x40000000, "messages": 0x08000000}
_CAP_SYS_PTRACE, _LAST_CAPABILITY = 19, 63
_CAPABILITY_VERSION = 0x20080522
_MOST_ROUNDS = 200
_REFUSED_CALLS = (
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
    # what outlives a process, where it could leave word for the next one
    "shmget", "msgget", "semget", "mq_open", "chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr",
    "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    # memory that no limit of a process counts
    "memfd_create", "memfd_secret",
)  # fmt: skip
"""System calls that code of a model has no use for: they reach other processes, the kernel's configuration, or other
machines; most ways out of a process begin with one."""
_IDLE_CALLS = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat", "futimesat")
"""Calls that do nothing and say that all is well, as of a copied file: they reach every file of the same user."""


def become_subreaper() -> bool:
    """Has orphans below this process handed to it from here on; tells whether the system does."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide() -> bool:
    """Keeps other processes of this user from our memory and descriptors in /proc; tells whether the system does.

    A child has the same protection until it executes another program. Root could still, so that right is given up.
    """
    hidden = _prctl(_PR_SET_DUMPABLE, 0)
    return drop_capabilities([_CAP_SYS_PTRACE]) and hidden


def end_with_parent(parent: int) -> None:
    """Has this process killed when the one that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def give_up_rights() -> None:
    """Becomes, as far as the system offers it, a user without rights who cannot reach into our processes, for good.

    Files stay as they are to it: within a namespace of users of its own it is the same user to the file system.
    """
    unshare("user")
    drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # nor can it gain any, as by sudo


def drop_capabilities(numbers: Collection[int] = range(_LAST_CAPABILITY + 1)) -> bool:
    """Gives rights of root up for good, by default all; True where this process has none of them afterwards."""
    library = _library()
    if library is None:
        return False
    for number in numbers:
        _prctl(_PR_CAPBSET_DROP, number)  # programs that we execute do not get it back; only root may say so
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of capabilities 0 to 31, then of 32 to 63
    if library.capget(header, sets) != 0:
        return False
    for number in numbers:
        for kind in range(3):
            sets[3 * (number // 32) + kind] &= ~(1 << (number % 32)) & 0xFFFFFFFF
    return library.capset(header, sets) == 0


def end_children(keep: Collection[int] = ()) -> None:
    """Sends SIGKILL to every child of this process but those, and to the children that it is handed thereby, until none
    is left. One that forks faster than it is killed gets away after many rounds."""
    for _ in range(_MOST_ROUNDS):
        killed = [child for child in children(os.getpid()) if child not in keep and _kill(child)]
        if not killed:
            return
        for child in killed:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def reap(keep: Collection[int]) -> None:
    """Takes note of children that have ended, but not of those to keep, so that the system can forget them."""
    for child in children(os.getpid()):
        if child not in keep:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


_own_list: int | None = None  # descriptor of the list of this process's children


def keep_list_of_children() -> None:
    """Opens the list of this process's children for good: once files are restricted, nothing in /proc is opened."""
    global _own_list  # noqa: PLW0603  # one a process
    with suppress(OSError):
        _own_list = os.open("/proc/thread-self/children", os.O_RDONLY)


def drop_list_of_children() -> None:
    """Closes that list in a fork, which is another process, and whose code has no business with it."""
    global _own_list  # noqa: PLW0603
    if _own_list is not None:
        os.close(_own_list)
        _own_list = None


def children(process: int) -> list[int]:
    """Lists the ids of a process's children, ended ones included; none where there is no /proc."""
    listed = _own_list
    if listed is not None and process == os.getpid():
        os.lseek(listed, 0, os.SEEK_SET)
        return [int(word) for word in b"".join(iter(lambda: os.read(listed, 2**16), b"")).split()]
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:  # kernels without that file
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _parent(folder) == process]


def unshare(*namespaces: str) -> bool:
    """Leaves those namespaces for new ones and tells whether that worked, which where "user" is none of them needs
    rights.

    In a namespace "user" it has all rights over the other new ones, and over nothing else; of "processes" only its
    children are part; a new "network" reaches nobody.
    """
    library = _library()
    flags = sum(_NAMESPACES[name] for name in namespaces)
    return library is not None and library.unshare(flags) == 0


def restrict_files(writable: str) -> list[str]:
    """Lets this process and its children write below one folder only, and read only what Python needs.

    Through Landlock, where the system has it and its package is installed; returns what is protected then, in words.
    """
    try:
        import landlock
    except ImportError:
        return []
    access = landlock.FSAccess
    reading = access.READ_FILE | access.READ_DIR
    try:
        rules = landlock.Ruleset()
        rules.allow(writable)
        for place in _readable():
            rules.allow(place, rules=(reading if place.is_dir() else access.READ_FILE) | access.EXECUTE)
        rules.allow("/dev/null", "/dev/zero", "/dev/urandom", rules=access.READ_FILE | access.WRITE_FILE)
        rules.apply()
        os.close(rules._fd)
    except (landlock.LandlockError, OSError):
        return []
    return ["own files"]


def restrict_writing(folder: str) -> bool:
    """Lets this process and its children write below that folder only, beside what is restricted already; tells whether
    the system does."""
    import landlock

    access = landlock.FSAccess
    try:
        rules = landlock.Ruleset(access.all() & ~(access.EXECUTE | access.READ_FILE | access.READ_DIR))
        rules.allow(folder)
        rules.allow("/dev/null", "/dev/zero", "/dev/urandom", rules=access.WRITE_FILE)
        rules.apply()
        os.close(rules._fd)
    except (landlock.LandlockError, OSError):
        return False
    return True


def _readable() -> list[Path]:
    """Lists the standard library, installed packages but this one, and the libraries of the system."""
    packages = [Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    ours = Path(__file__).resolve().parents[2]
    installed = [entry for folder in packages if folder.is_dir() for entry in folder.iterdir()]
    places = [Path(os.__file__).parent, *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64"))]
    return [
        place
        for place in [*places, *installed]
        if place.exists() and place.resolve() != ours and "site-packages" not in place.name
    ]


@cache
def call_filter() -> Any:
    """Returns the filter of system calls, made once before processes are forked.

    None without package `pyseccomp` (extra `sandbox`) and the system's library libseccomp; nothing is refused then.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    filtered = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    answers = dict.fromkeys(_REFUSED_CALLS, errno.EPERM) | dict.fromkeys(_IDLE_CALLS, 0)
    for name, answer in answers.items():
        try:
            filtered.add_rule(pyseccomp.ERRNO(answer), name)
        except (OSError, ValueError):  # a call that this system, or this version of the library, does not have
            continue
    # Not even those of this machine: a socket in a file may belong to a service with rights. Pairs stay.
    filtered.add_rule(pyseccomp.ERRNO(errno.ENETUNREACH), "socket")
    return filtered


def refuse_calls() -> list[str]:
    """Refuses those calls to this process and all that it starts, for good; returns in words what is protected then."""
    filtered = call_filter()
    if filtered is None:
        return []
    try:
        filtered.load()
    except OSError:  # the kernel has no filters
        return []
    return ["fewer system calls", "no network"]


def _kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:  # it has become another user's
        return False
    return True


def _parent(folder: Path) -> int | None:
    try:
        # The name, in parentheses, may hold anything; the parent is the second word behind it.
        return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _prctl(option: int, value: int) -> bool:
    library = _library()
    return library is not None and library.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))) == 0


@cache
def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("prctl", "capset", "unshare")) else None
