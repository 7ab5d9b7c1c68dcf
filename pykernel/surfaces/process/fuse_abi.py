"""
The FUSE protocol as far as we speak it: numbers and layouts of include/uapi/linux/fuse.h (7.31 to 7.45).

Layouts are ``struct.Struct`` in native little-endian order; a name is the C struct's without its prefix.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

__all__ = [
    "ATTR",
    "ATTR_OUT",
    "DIRENT",
    "ENTRY_OUT",
    "FATTR",
    "FOPEN_DIRECT_IO",
    "FOPEN_NOFLUSH",
    "FOPEN_NONSEEKABLE",
    "FOPEN_PARALLEL_DIRECT_WRITES",
    "FOPEN_STREAM",
    "INIT",
    "IN_HEADER",
    "OUT_HEADER",
    "ROOT_ID",
    "Notify",
    "Op",
]

KERNEL_VERSION = 7
KERNEL_MINOR_VERSION = 31  # what we ask for; the host answers with at least this or we refuse
ROOT_ID = 1


class Op(IntEnum):
    """``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47


class Notify(IntEnum):
    """``enum fuse_notify_code``."""

    POLL = 1
    INVAL_INODE = 2


class INIT(IntFlag):
    """``FUSE_*`` flags of INIT that we know how to use."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class FATTR(IntFlag):
    """Bitmasks of ``fuse_setattr_in.valid``."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


GETATTR_FH = 1 << 0
READ_LOCKOWNER = 1 << 1
FOPEN_DIRECT_IO = 1 << 0
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
POLL_SCHEDULE_NOTIFY = 1 << 0

IN_HEADER = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER = Struct("<IiQ")  # len error unique
# ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags
ATTR = Struct("<QQQQQQIIIIIIIIII")
ENTRY_OUT = Struct("<QQQQII")  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec, then attr
ATTR_OUT = Struct("<QII")  # attr_valid attr_valid_nsec dummy, then attr
FORGET_ONE = Struct("<QQ")  # nodeid nlookup
GETATTR_IN = Struct("<IIQ")  # getattr_flags dummy fh
# valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused4 uid gid unused5
SETATTR_IN = Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN = Struct("<IIII")  # mode rdev umask padding
MKDIR_IN = Struct("<II")  # mode umask
RENAME_IN = Struct("<Q")  # newdir
RENAME2_IN = Struct("<QII")  # newdir flags padding
LINK_IN = Struct("<Q")  # oldnodeid
OPEN_IN = Struct("<II")  # flags open_flags
CREATE_IN = Struct("<IIII")  # flags mode umask open_flags
OPEN_OUT = Struct("<QII")  # fh open_flags padding
RELEASE_IN = Struct("<QIIQ")  # fh flags release_flags lock_owner
READ_IN = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT = Struct("<II")  # size padding
STATFS_OUT = Struct("<QQQQQIIII24x")  # blocks bfree bavail files ffree bsize namelen frsize padding spare[6]
FSYNC_IN = Struct("<QII")  # fh fsync_flags padding
SETXATTR_IN = Struct("<II")  # size flags (FUSE_COMPAT_SETXATTR_IN_SIZE: FUSE_SETXATTR_EXT is not asked for)
GETXATTR_IN = Struct("<II")  # size padding
GETXATTR_OUT = Struct("<II")  # size padding
ACCESS_IN = Struct("<II")  # mask padding
INIT_IN = Struct("<IIII")  # major minor max_readahead flags
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
INIT_OUT = Struct("<IIIIHHIIHHI28x")
INTERRUPT_IN = Struct("<Q")  # unique
IOCTL_IN = Struct("<QIIQII")  # fh flags cmd arg in_size out_size
IOCTL_OUT = Struct("<iIII")  # result flags in_iovs out_iovs
POLL_IN = Struct("<QQII")  # fh kh flags events
POLL_OUT = Struct("<II")  # revents padding
FALLOCATE_IN = Struct("<QQQII")  # fh offset length mode padding
LSEEK_IN = Struct("<QQII")  # fh offset whence padding
LSEEK_OUT = Struct("<Q")  # offset
DIRENT = Struct("<QQII")  # ino off namelen type, then the name, padded to 8
NOTIFY_POLL_WAKEUP_OUT = Struct("<Q")  # kh
NOTIFY_INVAL_INODE_OUT = Struct("<Qqq")  # ino off len
