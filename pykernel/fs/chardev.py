"""
Character devices: numbers, the registry of drivers, and /dev/null and friends (fs/char_dev.c, drivers/char/mem.c).
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENOSPC, ENXIO
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import File, Inode, Owner
from pykernel.mm.phys import PhysMem
from pykernel.mm.vma import VM_SHARED, Shmem, Vma

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = [
    "MAJOR",
    "MINOR",
    "MKDEV",
    "CdevOwner",
    "Chrdevs",
    "NullFile",
    "alloc_chrdev_region",
    "chrdev_open",
    "unregister_chrdev_region",
]

MINORBITS = 20
CHRDEV_MAJOR_MAX = 512
Open = Callable[[Inode, int], File]


def MAJOR(dev: int) -> int:
    """C: ``MAJOR(dev)``."""
    return dev >> MINORBITS


def MINOR(dev: int) -> int:
    """C: ``MINOR(dev)``."""
    return dev & (1 << MINORBITS) - 1


def MKDEV(major: int, minor: int) -> int:
    """C: ``MKDEV(ma, mi)``."""
    return major << MINORBITS | minor


@dataclass(frozen=True, slots=True)
class Region:
    """``struct char_device_struct``."""

    dev: int
    count: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Cdev:
    """``struct cdev``: several may have one *open*, a class for instance; open files hold *owner*."""

    open: Open
    owner: Owner | None


class Chrdevs:
    """The character devices of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.regions: list[Region] = [Region(MKDEV(1, 0), 256, "mem")]
        self.cdevs: dict[int, Cdev] = {}

    def find_dynamic_major(self) -> int:
        """fs/char_dev.c:find_dynamic_major(): 254 down to 234, then 511 down to 384. Raises EBUSY."""
        taken = {MAJOR(r.dev) for r in self.regions}
        majors: tuple[int, ...] = (*range(254, 233, -1), *range(CHRDEV_MAJOR_MAX - 1, 383, -1))
        for major in majors:
            if major not in taken:
                return major
        raise err(EBUSY, "no dynamic character major is free")

    def register_region(self, dev: int, count: int, name: str) -> None:
        """C: ``int register_chrdev_region(dev_t, unsigned, const char *)``. Raises EBUSY, EINVAL."""
        if MAJOR(dev) >= CHRDEV_MAJOR_MAX or count > (1 << MINORBITS) - MINOR(dev):
            raise err(EINVAL)
        if any(r.dev < dev + count and dev < r.dev + r.count for r in self.regions):
            raise err(EBUSY, f"character devices {MAJOR(dev)}:{MINOR(dev)} are taken")
        self.regions.append(region := Region(dev, count, name))
        self.kernel.ledger.take(
            "chrdev", region, lambda: f"character device numbers {MAJOR(dev)}:{MINOR(dev)}+{count} of {name!r}"
        )

    def unregister_region(self, dev: int, count: int) -> None:
        """C: ``void unregister_chrdev_region(dev_t, unsigned)``."""
        for region in [r for r in self.regions if (r.dev, r.count) == (dev, count)]:
            self.regions.remove(region)
            self.kernel.ledger.give("chrdev", region)

    def devices(self) -> str:
        """The text of /proc/devices."""
        rows = sorted((MAJOR(r.dev), r.name) for r in self.regions)
        return "Character devices:\n" + "".join(f"{m:3d} {n}\n" for m, n in rows) + "\nBlock devices:\n"

    def add(self, dev: int, open: Open, owner: Owner | None = None) -> None:
        """C: ``int cdev_add(struct cdev *, dev_t, unsigned)``; open files hold module *owner*. Raises EBUSY."""
        if dev in self.cdevs:
            raise err(EBUSY)
        cdev = self.cdevs[dev] = Cdev(open, owner)
        self.kernel.ledger.take("cdev", cdev, lambda: f"character device {MAJOR(dev)}:{MINOR(dev)}")

    def delete(self, dev: int) -> None:
        """C: ``void cdev_del(struct cdev *)``; files that are open stay usable."""
        self.kernel.ledger.give("cdev", self.cdevs.pop(dev, None))


def alloc_chrdev_region(kernel: Kernel, baseminor: int, count: int, name: str) -> int:
    """
    Take a dynamic major; the first dev_t. C: ``int alloc_chrdev_region(dev_t *, unsigned, unsigned, const char *)``.

    Raises:
        EBUSY: none is free. ENOMEM: by fault injection.
    """
    kernel.faults.alloc("alloc_chrdev_region")
    reg = kernel.sub(Chrdevs)
    dev = MKDEV(reg.find_dynamic_major(), baseminor)
    reg.register_region(dev, count, name)
    return dev


def unregister_chrdev_region(kernel: Kernel, dev: int, count: int) -> None:
    """C: ``void unregister_chrdev_region(dev_t, unsigned)``."""
    kernel.sub(Chrdevs).unregister_region(dev, count)


def chrdev_open(inode: Inode, flags: int) -> File:
    """fs/char_dev.c:chrdev_open(). Raises ENXIO: no driver has the number; and what the driver's open raises."""
    inode.kernel.up()
    cdev = inode.kernel.sub(Chrdevs).cdevs.get(inode.rdev) if stat.S_ISCHR(inode.mode) else None
    if cdev is None:
        raise err(ENXIO, f"no driver for {MAJOR(inode.rdev)}:{MINOR(inode.rdev)}")
    owner = cdev.owner
    if owner is None:
        return cdev.open(inode, flags)
    owner.get_ref()
    try:
        file = cdev.open(inode, flags)
    except BaseException:
        owner.put_ref()
        raise
    file.owner = owner
    return file


class CdevOwner:
    """The module of drivers that set ``cdev.owner``, and not that of the file operations only: two references."""

    __slots__ = ("module",)

    def __init__(self, module: Owner) -> None:
        self.module = module

    def get_ref(self) -> None:
        """``cdev_get()``, ``fops_get()``."""
        self.module.get_ref()
        self.module.get_ref()

    def put_ref(self) -> None:
        """``cdev_put()``, ``fops_put()``."""
        self.module.put_ref()
        self.module.put_ref()


class NullFile(File):
    """/dev/null. drivers/char/mem.c:null_fops."""

    __slots__ = ()

    def pread(self, pos: int, count: int) -> bytes:
        """Nothing."""
        return b""

    def pwrite(self, pos: int, data: bytes) -> int:
        """Takes all."""
        return len(data)

    def llseek(self, offset: int, whence: int) -> int:
        """null_lseek(): always 0."""
        self.pos = 0
        return 0


class ZeroFile(NullFile):
    """/dev/zero."""

    __slots__ = ()

    def pread(self, pos: int, count: int) -> bytes:
        """Zeros."""
        return bytes(count)

    def mmap(self, vma: Vma) -> None:
        """drivers/char/mem.c:mmap_zero(): memory without a name."""
        if vma.vm_flags & VM_SHARED:
            vma.vm_pgoff, vma.fault = 0, Shmem(self.inode.kernel.sub(PhysMem), vma.vm_end - vma.vm_start).fault


class RandomFile(NullFile):
    """/dev/random and /dev/urandom: the kernel's seeded generator."""

    __slots__ = ()

    def pread(self, pos: int, count: int) -> bytes:
        """Random bytes."""
        return self.inode.kernel.sched.rng.randbytes(count)


class FullFile(NullFile):
    """/dev/full."""

    __slots__ = ()
    write_iter = False

    def pread(self, pos: int, count: int) -> bytes:
        """Zeros."""
        return bytes(count)

    def pwrite(self, pos: int, data: bytes) -> int:
        """Raises ENOSPC."""
        raise err(ENOSPC)
