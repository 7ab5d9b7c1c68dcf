"""
Statistics of KVM as a file (virt/kvm/binary_stats.c): a header, the name of whose they are, descriptors, the numbers.

What hypervisors of this world count and Linux does not is there by its own name: ``enqcmd_exits`` are executions of
ENQCMD with a PASID that has no translation, ``kicks`` processors that had to leave the guest for a change of PASIDs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pykernel.fs.anon import AnonInode
from pykernel.fs.vfs import File
from pykernel.uapi.linux import kvm as k

if TYPE_CHECKING:
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["StatsFile"]

NAME_SIZE: Final = 48  # include/linux/kvm_host.h:KVM_STATS_NAME_SIZE
INSTANT: Final = frozenset({"pasids", "pasid_pages"})


class StatsFile(File):
    """The statistics that *read_stat* gives, of what is called *name*."""

    __slots__ = ("name", "read_stat", "vm")

    def __init__(self, vm: Kvm, name: str, read_stat: Callable[[], dict[str, int]]) -> None:
        super().__init__(AnonInode(vm.kernel, 0, "kvm-vcpu-stats" if "vcpu" in name else "kvm-vm-stats"), os.O_RDONLY)
        self.vm, self.name, self.read_stat = vm, name, read_stat
        vm.get_ref()

    def content(self) -> bytes:
        """All of it, now."""
        stat = self.read_stat()
        size = k.kvm_stats_desc.sizeof() + NAME_SIZE
        id_offset = k.kvm_stats_header.sizeof()
        desc_offset = id_offset + NAME_SIZE
        data_offset = desc_offset + size * len(stat)
        header = k.kvm_stats_header(
            flags=0, name_size=NAME_SIZE, num_desc=len(stat), id_offset=id_offset, desc_offset=desc_offset,
            data_offset=data_offset,
        )  # fmt: skip
        out = bytes(header) + self.name.encode().ljust(NAME_SIZE, b"\0")
        for at, name in enumerate(stat):
            kind = k.KVM_STATS_TYPE_INSTANT if name in INSTANT else k.KVM_STATS_TYPE_CUMULATIVE
            desc = k.kvm_stats_desc(flags=kind | k.KVM_STATS_UNIT_NONE | k.KVM_STATS_BASE_POW10, size=1, offset=8 * at)
            out += bytes(desc) + name.encode().ljust(NAME_SIZE, b"\0")
        return out + b"".join(value.to_bytes(8, "little") for value in stat.values())

    def pread(self, pos: int, count: int) -> bytes:
        """C: ``ssize_t kvm_stats_read(...)``."""
        return self.content()[pos : pos + count]

    def read(self, count: int) -> bytes:
        """From the file's position on."""
        data = self.pread(self.pos, count)
        self.pos += len(data)
        return data

    def release(self) -> None:
        """The machine may go."""
        self.vm.put_ref()
