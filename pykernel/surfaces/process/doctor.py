"""
What this host allows, and what of the process surface works then: rows for ``pykernel doctor``.

Each probe runs in a child of its own, so that nothing that it changes stays.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from errno import ENOSYS

from pykernel.surfaces.process import host, seccomp

__all__ = ["PROBES", "Finding", "Probe", "ask", "diagnose"]

_PR_SET_NO_NEW_PRIVS = 38
_IOCTL_NOTIF_SET_FLAGS = 0x40082104
_FD_SYNC_WAKE_UP = 1
_ARCH_CPUID_SET = 0x1012
_SYS_ARCH_PRCTL = 158


@dataclass(frozen=True, slots=True)
class Probe:
    """One question: *ask* returns a detail, or raises OSError with the reason for a no."""

    what: str
    ask: Callable[[], str]
    then: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer."""

    what: str
    ok: bool
    detail: str
    then: str


def _read(path: str) -> str:
    with open(path, encoding="latin-1") as f:
        return f.read().strip()


def _privilege() -> str:
    if why := host.cannot_become(0, 0):
        raise PermissionError(1, why)
    return "CAP_SYS_ADMIN: no user namespace is needed"


def _user_namespace() -> str:
    uid, gid = os.geteuid(), os.getegid()
    host.unshare(host.CLONE_NEWUSER | host.CLONE_NEWNS | host.CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
            f.write(text)
    return f"{_read('/proc/sys/user/max_user_namespaces')} allowed"


def _dev_fuse() -> str:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    return "can be opened"


def _fuse_mount() -> str:
    if not host.cannot_become(0, 0):
        host.unshare(host.CLONE_NEWNS)
    else:
        _user_namespace()
    host.mount("none", "/", flags=host.MS_REC | host.MS_PRIVATE)
    fd = os.open("/dev/fuse", os.O_RDWR)
    host.mount("pykernel", "/sys", "fuse.pykernel", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other")
    return f"Linux {platform.release()}"


def _proc_mount() -> str:
    _user_namespace()
    pid = os.fork()
    if pid == 0:
        try:
            host.mount("proc", "/proc", "proc")
        except OSError as e:
            os._exit(e.errno or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "a new instance"


def _listener(flags: int) -> int:
    if platform.machine() not in seccomp.NUMBERS:
        raise OSError(ENOSYS, f"not known for {platform.machine()}")
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = struct.pack("<HBBI", 0x06, 0, 0, seccomp.RET_ALLOW)
    return seccomp.new_listener(program, flags | seccomp.FILTER_FLAG_NEW_LISTENER)


def _notification() -> str:
    _listener(0)
    if not seccomp.has_continue():
        raise OSError(ENOSYS, "before Linux 5.5 a call cannot be left to the host")
    return "available"


def _wait_killable() -> str:
    _listener(seccomp.FILTER_FLAG_WAIT_KILLABLE_RECV)
    return "available"


def _sync_wake_up() -> str:
    fd = _listener(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioctl(fd, ctypes.c_ulong(_IOCTL_NOTIF_SET_FLAGS), ctypes.c_ulong(_FD_SYNC_WAKE_UP)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return "available"


def _ptrace() -> str:
    try:
        scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    except FileNotFoundError:
        return "no Yama"
    if scope == "3":
        raise PermissionError(1, "kernel.yama.ptrace_scope is 3")
    return f"kernel.yama.ptrace_scope is {scope}"


def _cpuid_fault() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if platform.machine() != "x86_64" or libc.syscall(_SYS_ARCH_PRCTL, _ARCH_CPUID_SET, 0):
        raise OSError(19, "this CPU has no CPUID faulting")
    return "available"


def _cpu_flag(flag: str) -> Callable[[], str]:
    def ask() -> str:
        words = {w for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags") for w in line.split()}
        if flag not in words:
            raise OSError(19, "not in /proc/cpuinfo")
        return "in /proc/cpuinfo"

    return ask


PROBES = (
    Probe("privilege", _privilege, "several users in one run (su, setpriv); chown to any id"),
    Probe("user namespaces", _user_namespace, "pykernel run without privilege"),
    Probe("/dev/fuse", _dev_fuse, "pykernel run"),
    Probe("FUSE mount", _fuse_mount, "pykernel run: emulated /sys and /dev for unmodified programs"),
    Probe("/proc mount", _proc_mount, "the clients see their own process ids in /proc (without privilege)"),
    Probe("seccomp user notification", _notification, "statfs() says sysfs, tmpfs, proc: udevadm, libudev, sd-device"),
    Probe(
        "seccomp WAIT_KILLABLE_RECV",
        _wait_killable,
        "a signal does not withdraw a call that is being answered (Linux 5.19)",
    ),
    Probe("seccomp SYNC_WAKE_UP", _sync_wake_up, "7 us instead of 17 a notified call (Linux 6.6)"),
    Probe("ptrace", _ptrace, "traps of MMIO and ENQCMD in unmodified programs"),
    Probe("CPUID faulting", _cpuid_fault, "the emulated machine's CPU features in CPUID"),
    Probe("MOVDIR64B", _cpu_flag("movdir64b"), "programs that test the host's CPU for it"),
    Probe("ENQCMD", _cpu_flag("enqcmd"), "programs that test the host's CPU for it"),
)


def diagnose() -> list[Finding]:
    """Ask every probe."""
    return [ask(p) for p in PROBES]


def ask(probe: Probe) -> Finding:
    """Ask one."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(probe, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as f:
        text = f.read().decode()
    status = os.waitpid(pid, 0)[1]
    if not text:
        return Finding(
            probe.what, ok=False, detail=f"the probe ended with {signal.strsignal(status & 127)}", then=probe.then
        )
    return Finding(probe.what, ok=text[0] == "y", detail=text[1:], then=probe.then)


def _answer(probe: Probe, fd: int) -> None:
    """In the child: "y" or "n" and the detail."""
    try:
        text = "y" + probe.ask()
    except OSError as e:
        text = "n" + (e.strerror or str(e))
    except Exception as e:
        text = f"n{type(e).__name__}: {e}"
    try:
        os.write(fd, text.encode())
    finally:
        os._exit(0)
