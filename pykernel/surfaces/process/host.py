"""System calls of the host that Python has no name for: namespaces, mounts, prctl."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from errno import EFAULT, ENAMETOOLONG, ENOENT

__all__ = [
    "cannot_become",
    "look",
    "make_read_only",
    "mount",
    "move_mount",
    "open_tree",
    "read_string",
    "set_effective_caps",
    "set_fs_ids",
    "set_pdeathsig",
    "statfs",
    "status_fields",
    "umount",
    "unshare",
    "write_memory",
]

# include/uapi/linux/sched.h
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_RECURSIVE = 0x8000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # one number on all architectures
_CAP_SYS_ADMIN = 21
_LINUX_CAPABILITY_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h
_PR_SET_PDEATHSIG = 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_BASIC_STATS, _STATX_SIZE = 0x7FF, 256
_MOUNT_ATTR_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(_libc.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode()), target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(flags)), target)


def open_tree(path: str, *, recursive: bool = False) -> int:
    """A descriptor of a detached copy of the mount at *path*, seen from there. open_tree(2), Linux 5.2."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _check(
        _libc.syscall(ctypes.c_long(_OPEN_TREE), ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(flags)), path
    )


def make_read_only(tree: int, *, recursive: bool) -> None:
    """
    Let no name, mode or owner of the mounts that *tree* stands for be changed; devices can be written all the same.

    mount_setattr(2), Linux 5.12: raises ENOSYS before.
    """
    attr = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: attr_set attr_clr propagation userns
    flags = _AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            ctypes.c_long(_MOUNT_SETATTR),
            ctypes.c_int(tree),
            b"",
            ctypes.c_uint(flags),
            attr,
            ctypes.c_size_t(len(attr)),
        ),
        "mount_setattr",
    )


def move_mount(tree: int, target: str) -> None:
    """Attach what :func:`open_tree` gave at *target* and close it. move_mount(2), Linux 5.2."""
    try:
        _check(
            _libc.syscall(
                ctypes.c_long(_MOVE_MOUNT),
                ctypes.c_int(tree),
                b"",
                ctypes.c_int(_AT_FDCWD),
                target.encode(),
                ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
            ),
            target,
        )
    finally:
        os.close(tree)


def set_pdeathsig(signum: int) -> None:
    """Get *signum* when the parent dies. PR_SET_PDEATHSIG."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signum), 0, 0, 0), "prctl")


def set_fs_ids(uid: int, gid: int) -> None:
    """The ids that this thread's path walks are checked with. setfsuid(2), which changes the capabilities, too."""
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))


def set_effective_caps(effective: int, permitted: int) -> None:
    """The capabilities that count for this thread, of those that it may have. capset(2)."""
    halves = [n >> shift & 0xFFFFFFFF for shift in (0, 32) for n in (effective & permitted, permitted, 0)]
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, struct.pack("=6I", *halves)), "capset")


def statfs(path: bytes, size: int) -> bytes:
    """*size* bytes of ``struct statfs``. statfs(2)."""
    buf = ctypes.create_string_buffer(size)
    _check(_libc.statfs(path, buf), os.fsdecode(path))
    return buf.raw


def look(path: bytes) -> None:
    """lstat(2) that takes no cached attribute for an answer. statx(2), AT_STATX_FORCE_SYNC."""
    flags = _AT_SYMLINK_NOFOLLOW | _AT_STATX_FORCE_SYNC
    buf = ctypes.create_string_buffer(_STATX_SIZE)
    mask = ctypes.c_uint(_STATX_BASIC_STATS)
    _check(_libc.statx(ctypes.c_int(_AT_FDCWD), path, ctypes.c_int(flags), mask, buf), os.fsdecode(path))


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


def _memory(call: Callable[..., int], pid: int, ours: ctypes.Array[ctypes.c_char], address: int) -> int:
    local, remote = _Iovec(ctypes.addressof(ours), len(ours)), _Iovec(address, len(ours))
    return _check(call(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)), f"process {pid}")


def read_string(pid: int, address: int, limit: int = 4096) -> bytes:
    """The C string at *address* of a process, shorter than *limit*. Raises EFAULT, ENAMETOOLONG; EPERM."""
    buf = ctypes.create_string_buffer(limit)
    n = _memory(_libc.process_vm_readv, pid, buf, address)
    text, end, _ = buf.raw[:n].partition(b"\0")
    if not end:
        code = EFAULT if n < limit else ENAMETOOLONG
        raise OSError(code, os.strerror(code))
    return text


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write *data* to *address* of a process. Raises EFAULT, EPERM."""
    buf = ctypes.create_string_buffer(data, len(data))
    if _memory(_libc.process_vm_writev, pid, buf, address) < len(data):
        raise OSError(EFAULT, os.strerror(EFAULT))


def status_fields(pid: int | str) -> dict[str, str]:
    """The lines of /proc/PID/status by name; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="latin-1") as f:
            return {k: v.strip() for k, _, v in (line.partition(":") for line in f)}
    except OSError as e:
        if e.errno in (ENOENT, 3):
            return {}
        raise


def cannot_become(uid: int, gid: int) -> str:
    """
    Why this process cannot mount and have children with any groups and these ids; empty when it can.

    A user namespace that an ordinary user made (``unshare -r``, a nested run) lacks the ids that it does not map, and
    setgroups(2).
    """
    status = status_fields("self")
    if not status:
        return "/proc is not mounted here"
    if not int(status["CapEff"], 16) >> _CAP_SYS_ADMIN & 1:
        return "no CAP_SYS_ADMIN"
    if _read("setgroups") == "deny\n":
        return "setgroups() is denied in this user namespace"
    for file, what, number in (("uid_map", "uid", uid), ("gid_map", "gid", gid)):
        rows = (map(int, line.split()) for line in _read(file).splitlines())
        if not any(first <= number < first + count for first, _, count in rows):
            return f"{what} {number} is not mapped in this user namespace"
    return ""


def _read(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="ascii") as f:
        return f.read()
