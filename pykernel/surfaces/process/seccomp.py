"""
The filter that every client carries: seccomp(2), classic BPF.

Now it only closes the two doors that would pass a filter by: foreign architectures end the process, io_uring_setup
answers ENOSYS. The rows that notify K (ioctl, init_module, uname, syslog, netlink sockets) and the one that traces
mmap join :func:`client_filter`; FUSE serves all calls by path natively, so those are never listed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from errno import ENOSYS
from struct import Struct

__all__ = ["SockFprog", "client_filter", "install"]

# include/uapi/linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NR_IO_URING_SETUP = 425
X32_SYSCALL_BIT = 0x40000000
# include/uapi/linux/seccomp.h: struct seccomp_data, actions
DATA_NR, DATA_ARCH = 0, 4
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
# include/uapi/linux/bpf_common.h
LD_W_ABS, JMP_JEQ_K, JMP_JGE_K, RET_K = 0x20, 0x15, 0x35, 0x06
_INSN = Struct("<HBBI")  # struct sock_filter: code jt jf k
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def client_filter(machine: str = "") -> bytes:
    """The BPF program for this machine; empty where we do not know its architecture number."""
    arch = AUDIT_ARCH.get(machine or platform.machine())
    if arch is None:
        return b""
    rows = (
        (LD_W_ABS, 0, 0, DATA_ARCH),
        (JMP_JEQ_K, 1, 0, arch),
        (RET_K, 0, 0, RET_KILL_PROCESS),
        (LD_W_ABS, 0, 0, DATA_NR),
        (JMP_JGE_K, 1, 0, X32_SYSCALL_BIT),
        (JMP_JEQ_K, 0, 1, NR_IO_URING_SETUP),
        (RET_K, 0, 0, RET_ERRNO | ENOSYS),
        (RET_K, 0, 0, RET_ALLOW),
    )
    return b"".join(_INSN.pack(*row) for row in rows)


class SockFprog(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(program: bytes, *, privileged: bool) -> None:
    """Put *program* on this thread and its children; without CAP_SYS_ADMIN it takes no_new_privs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not privileged:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    buf = ctypes.create_string_buffer(program, len(program))
    prog = SockFprog(len(program) // _INSN.size, ctypes.addressof(buf))
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(prog)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "seccomp")
