"""
``/dev/ioasid``: host PASIDs for a process (drivers/iommu/ioasid_user.c of "IOASID extensions for guest SVA", V4).

A process has one file and with it one set, of 1000 IDs. What it closes, or leaves when it is killed, is freed; an ID
that hardware still uses is reclaimed when its users have dropped it.
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENODEV
from typing import TYPE_CHECKING, Final

from pykernel.base.misc import MISC_DYNAMIC_MINOR, MiscDevice, misc_deregister, misc_register
from pykernel.base.module import Module
from pykernel.errors import err
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.vfs import Inode, no_llseek
from pykernel.iommu.ioasid import (
    INVALID_IOASID,
    IOASID_SET_TYPE_MM,
    Ioasid,
    ioasid_alloc,
    ioasid_free,
    ioasid_free_all_in_set,
    ioasid_set_alloc,
    ioasid_set_free,
)
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.rfc.ioasid import (
    IOASID_API_VERSION,
    IOASID_GET_API_VERSION,
    IOASID_GET_INFO,
    IOASID_REQUEST_ALLOC,
    IOASID_REQUEST_FREE,
    ioasid_alloc_request,
    ioasid_info,
)

if TYPE_CHECKING:
    pass

__all__ = ["IoasidFile", "IoasidUserModule"]

QUOTA: Final = 1000
IOASID_BITS: Final = 31


class IoasidFile(IoctlFile):
    """
    An open ``/dev/ioasid``: the set of the process that opened it.

    Raises:
        EBUSY: the process has one, or one whose IDs hardware still uses.
        ENODEV: a kernel's task. ENOMEM: by fault injection.
        ENOSPC: the machine has no 1000 IDs left that are in no set's quota: of PASIDs with 10 bits (``pasid_bits``) it
            never has, with 11 for one process beside the host's own.
    """

    __slots__ = ("set",)
    seekable = False

    def __init__(self, inode: Inode, flags: int) -> None:
        super().__init__(inode, flags)
        kernel = inode.kernel
        mm = kernel.current.mm
        if mm is None:
            raise err(ENODEV, "no address space")
        try:
            self.set = ioasid_set_alloc(kernel, mm, QUOTA, IOASID_SET_TYPE_MM)
        except OSError as e:
            if e.errno == EEXIST:
                raise err(EBUSY, "the process has a set") from e
            raise

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    def release(self) -> None:
        """The last descriptor is closed: nobody needs the IDs."""
        ioasid_free_all_in_set(self.set)
        try:
            ioasid_set_free(self.set)
        except OSError as e:
            if e.errno != EBUSY:  # then it goes with the last ID
                raise

    @ioctl(IOASID_GET_API_VERSION)
    def get_api_version(self, _: int) -> int:
        """C: ``IOASID_API_VERSION``."""
        return IOASID_API_VERSION

    @ioctl(IOASID_GET_INFO)
    def get_info(self, info: ioasid_info) -> ioasid_info:
        """
        How many bits an ID has: 31, as the module says, though PASIDs have 20; what is wider is refused.

        Raises:
            EFAULT. EINVAL: less than 12 bytes.
        """
        return ioasid_info(argsz=info.argsz, flags=0, ioasid_bits=IOASID_BITS)

    @ioctl(IOASID_REQUEST_ALLOC)
    def request_alloc(self, wanted: ioasid_alloc_request) -> int:
        """
        An ID of the range.

        Raises:
            EFAULT. EINVAL: less than 16 bytes, a flag, an empty range, or there is none to be had for any reason.
        """
        low, high = wanted.range.min, wanted.range.max
        if wanted.flags or low > high:
            raise err(EINVAL, f"flags {wanted.flags:#x}, {low} to {high}")
        found = ioasid_alloc(self.set, low, high)
        if found == INVALID_IOASID:
            raise err(EINVAL, f"no ID from {low} to {high}")
        return found

    @ioctl(IOASID_REQUEST_FREE)
    def request_free(self, arg: int) -> int:
        """
        Free an ID; once more while hardware uses it is no error.

        Raises:
            EFAULT. EINVAL: it is negative or no ID of this file, whoever's; the module says 0 for those.
        """
        number = int.from_bytes(copy_from_user(self.inode.kernel, arg, 4), "little", signed=True)
        if number < 0 or number not in self.set.members:
            raise err(EINVAL, f"IOASID {number} is not of this file")
        ioasid_free(self.set, number)
        return 0

    def ioctl(self, cmd: int, arg: int) -> int:
        """Call the method of *cmd*. Raises EINVAL: there is none; what the method does."""
        if cmd not in self.ioctls():
            raise err(EINVAL, f"/dev/ioasid has no ioctl {cmd:#x}")
        return super().ioctl(cmd, arg)


class IoasidUserModule(Module):
    """``ioasid_user.ko``, which was never merged: a machine has it whose modules name it."""

    name_ = "ioasid_user"

    def init(self) -> None:
        """C: ``int ioasid_user_init(void)``. Raises EBUSY: no minor is free."""
        self.misc = MiscDevice(self.kernel, "ioasid", MISC_DYNAMIC_MINOR, self.open, mode=0o666, owner=self)
        misc_register(self.misc)
        self.kernel.sub(Ioasid).for_users = True

    def exit(self) -> None:
        """C: ``void ioasid_user_exit(void)``."""
        self.kernel.sub(Ioasid).for_users = False
        misc_deregister(self.misc)

    def open(self, inode: Inode, flags: int) -> IoasidFile:
        """C: ``int ioasid_user_open(struct inode *, struct file *)``. Raises what :class:`IoasidFile` does."""
        return IoasidFile(inode, flags)
