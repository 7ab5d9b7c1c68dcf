"""
The filter that every client carries: seccomp(2), classic BPF.

It closes the two doors that would pass a filter by: foreign architectures end the process, io_uring_setup answers
ENOSYS. And it notifies init, the clients' pid 1, of the calls in :data:`NOTIFIED` (``statfs.py``). FUSE serves all
other calls by path natively, so those are never listed: a notified call costs ten times an ordinary one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from errno import EINVAL, ENOSYS
from struct import Struct

__all__ = ["NOTIFIED", "SockFprog", "client_filter", "has_continue", "install", "listen", "new_listener", "system_call"]

# include/uapi/linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
NUMBERS = {
    "x86_64": {"statfs": 137, "fstatfs": 138, "seccomp": 317, "io_uring_setup": 425},
    "aarch64": {"statfs": 43, "fstatfs": 44, "seccomp": 277, "io_uring_setup": 425},
}
NOTIFIED = ("statfs", "fstatfs")
X32_SYSCALL_BIT = 0x40000000
# include/uapi/linux/seccomp.h: struct seccomp_data, actions, seccomp(2)'s operations and flags
DATA_NR, DATA_ARCH = 0, 4
RET_KILL_PROCESS, RET_ERRNO, RET_USER_NOTIF, RET_ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
SET_MODE_FILTER = 1
FILTER_FLAG_NEW_LISTENER, FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
# include/uapi/linux/bpf_common.h
LD_W_ABS, JMP_JEQ_K, JMP_JGE_K, RET_K = 0x20, 0x15, 0x35, 0x06
_INSN = Struct("<HBBI")  # struct sock_filter: code jt jf k
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def system_call(name: str, machine: str = "") -> int:
    """The number of a system call on this machine. Raises KeyError: a machine that we do not know."""
    return NUMBERS[machine or platform.machine()][name]


def client_filter(machine: str = "", *, notify: bool = False) -> bytes:
    """The BPF program for this machine; empty where we do not know its architecture number."""
    machine = machine or platform.machine()
    arch = AUDIT_ARCH.get(machine)
    if arch is None:
        return b""
    rows = [
        (LD_W_ABS, 0, 0, DATA_ARCH),
        (JMP_JEQ_K, 1, 0, arch),
        (RET_K, 0, 0, RET_KILL_PROCESS),
        (LD_W_ABS, 0, 0, DATA_NR),
        (JMP_JGE_K, 1, 0, X32_SYSCALL_BIT),
        (JMP_JEQ_K, 0, 1, system_call("io_uring_setup", machine)),
        (RET_K, 0, 0, RET_ERRNO | ENOSYS),
    ]
    for name in NOTIFIED if notify else ():
        rows += [(JMP_JEQ_K, 0, 1, system_call(name, machine)), (RET_K, 0, 0, RET_USER_NOTIF)]
    rows.append((RET_K, 0, 0, RET_ALLOW))
    return b"".join(_INSN.pack(*row) for row in rows)


class SockFprog(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def has_continue(release: str = "") -> bool:
    """Can this host be told to make a notified call itself? SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5."""
    numbers = re.match(r"(\d+)\.(\d+)", release or platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (5, 5)


def install(program: bytes, *, privileged: bool) -> None:
    """Put *program* on this thread and its children; without CAP_SYS_ADMIN it takes no_new_privs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not privileged:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    prog, _keep = _fprog(program)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(prog)):
        _raise()


def listen(program: bytes) -> int:
    """
    Put *program* on this thread and its children; the descriptor that its notifications are read from.

    A signal does not withdraw a call that is being answered (Linux 5.19). Raises EBUSY: whoever started us listens
    already; EINVAL: Linux before 5.0; ENOSYS.
    """
    try:
        return new_listener(program, FILTER_FLAG_NEW_LISTENER | FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as e:
        if e.errno != EINVAL:
            raise
        return new_listener(program, FILTER_FLAG_NEW_LISTENER)


def new_listener(program: bytes, flags: int) -> int:
    """As :func:`listen`, with these flags."""
    libc = ctypes.CDLL(None, use_errno=True)
    prog, _keep = _fprog(program)
    fd: int = libc.syscall(
        ctypes.c_long(system_call("seccomp")), ctypes.c_uint(SET_MODE_FILTER), ctypes.c_uint(flags), ctypes.byref(prog)
    )
    if fd < 0:
        _raise()
    return fd


def _fprog(program: bytes) -> tuple[SockFprog, ctypes.Array[ctypes.c_char]]:
    """The program as the kernel wants it, and what must live as long."""
    buf = ctypes.create_string_buffer(program, len(program))
    return SockFprog(len(program) // _INSN.size, ctypes.addressof(buf)), buf


def _raise() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), "seccomp")
