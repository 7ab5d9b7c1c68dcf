"""
A client without manners: random calls on descriptors of VFIO, IOMMUFD, eventfds, with nearly right arguments.

``Vandal(kernel, seed)`` owns a few processes; ``step()`` lets one of them do one thing. Only an errno may come back.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from types import ModuleType

from pykernel.kernel import Kernel
from pykernel.syscalls import Process
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux import iommufd, vfio

PAGE = 4096
WORDS = (
    *(0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 24, 32, 40, 48, 0xFF, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE),
    *(1 << 20, 1 << 21, 1 << 30, 0xFEE00000, 1 << 39, (1 << 48) - PAGE, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1),
)
ROOM = 256


def rows_of(*modules: ModuleType) -> list[Ioctl]:
    """The ioctls of the headers."""
    return [row for module in modules for row in vars(module).values() if isinstance(row, Ioctl)]


ROWS = rows_of(vfio, iommufd)


class Vandal:
    """Random calls; the same *seed* is the same calls."""

    def __init__(self, kernel: Kernel, seed: int, paths: list[str], names: list[str]) -> None:
        self.kernel, self.random = kernel, random.Random(seed)
        self.paths, self.names = paths, names
        self.processes = [kernel.process(comm=f"vandal{n}", uid=uid) for n, uid in enumerate((0, 0, 1000))]
        self.fds: dict[Process, list[int]] = {p: [] for p in self.processes}
        self.memory: dict[Process, list[int]] = {p: [] for p in self.processes}
        self.said: dict[str, int] = {}
        self.acts: list[tuple[int, Callable[[Process], object]]] = [
            (12, self.open), (40, self.ioctl), (14, self.sensible), (6, self.eventfd), (6, self.close), (3, self.dup),
            (4, self.map), (2, self.unmap), (4, self.access), (4, self.read), (4, self.write), (2, self.poll),
            (1, self.fork), (1, self.die),
        ]  # fmt: skip

    def step(self) -> None:
        """One call of one process."""
        proc = self.random.choice(self.processes)
        act = self.random.choices([a for _, a in self.acts], [w for w, _ in self.acts])[0]
        try:
            act(proc)
            said = "ok"
        except OSError as e:
            said = str(e.errno)
        self.said[said] = self.said.get(said, 0) + 1

    def end(self) -> None:
        """Everybody exits."""
        for proc in list(self.processes):
            proc.exit()

    # ---- what they do

    def _fd(self, proc: Process) -> int:
        known = self.fds[proc]
        return self.random.choice(known) if known and self.random.random() < 0.95 else self.random.randrange(-2, 40)

    def _pointer(self, proc: Process) -> int:
        areas = self.memory[proc]
        if areas and self.random.random() < 0.8:
            return self.random.choice(areas) + self.random.choice((0, 0, 0, 8, PAGE, 63 * PAGE))
        return self.random.choice((0, 8, 1 << 47, (1 << 64) - 8, 0x1234))

    def open(self, proc: Process) -> None:
        """A node, often again."""
        self.fds[proc].append(
            proc.open(self.random.choice(self.paths), os.O_RDWR | self.random.choice((0, os.O_NONBLOCK)))
        )

    def eventfd(self, proc: Process) -> None:
        """An eventfd among the others."""
        self.fds[proc].append(proc.eventfd(self.random.choice((0, 0, 1)), os.O_NONBLOCK))

    def close(self, proc: Process) -> None:
        """A descriptor; it may be closed already."""
        proc.close(self._fd(proc))

    def dup(self, proc: Process) -> None:
        """Two for one."""
        self.fds[proc].append(proc.dup(self._fd(proc)))

    def ioctl(self, proc: Process) -> None:
        """Any number, any argument."""
        row = self.random.choice(ROWS)
        number = row.nr if self.random.random() < 0.95 else self.random.getrandbits(32)
        kind = self.random.random()
        if kind < 0.1:
            arg: int | bytearray = self._pointer(proc)
        elif kind < 0.2:
            arg = self.random.choice(WORDS[:16])
        else:
            arg = self._payload(proc, row)
        result = proc.ioctl(self._fd(proc), number, arg)
        if result > 2 and result in proc.fds.files:
            self.fds[proc].append(result)

    def _payload(self, proc: Process, row: Ioctl) -> bytearray:
        """A struct whose first word is about its size, the others numbers that mean something somewhere."""
        draw, size = self.random, row.struct.sizeof() if row.struct is not None else 8
        data = bytearray(ROOM)
        for at in range(0, size + draw.choice((0, 0, 16, 40)), 4):
            pick = draw.random()
            if pick < 0.35:
                value = draw.choice((0, 1, 2, 4, 5, 0x21, 0x24))
            elif pick < 0.6:
                value = draw.choice(WORDS) & 0xFFFFFFFF
            elif pick < 0.8:
                value = self._fd(proc) & 0xFFFFFFFF
            elif pick < 0.95:
                value = self._pointer(proc) & 0xFFFFFFFF
                data[at + 4 : at + 8] = (self._pointer(proc) >> 32 & 0xFFFFFFFF).to_bytes(4, "little")
            else:
                value = draw.getrandbits(32)
            data[at : at + 4] = value.to_bytes(4, "little")
        data[:4] = draw.choice((size, size, size, size + 16, size + 64, row.minsz or 8, 4, 0, 200)).to_bytes(
            4, "little"
        )
        return data

    def sensible(self, proc: Process) -> None:
        """A call that may well succeed, so that the others meet a state."""
        draw, fd, page = self.random, self._fd(proc), self.random.randrange(64) * PAGE
        self.random.choice(
            (
                lambda: proc.ioctl(fd, vfio.VFIO_GROUP_SET_CONTAINER, self._s32(self._fd(proc))),
                lambda: proc.ioctl(fd, vfio.VFIO_SET_IOMMU, draw.choice((1, 3))),
                lambda: self._device(proc, fd),
                lambda: proc.ioctl(fd, vfio.VFIO_IOMMU_MAP_DMA, vfio.vfio_iommu_type1_dma_map(
                    argsz=32, flags=3, vaddr=self._pointer(proc) & -PAGE, iova=page, size=draw.randrange(1, 9) * PAGE)),
                lambda: proc.ioctl(fd, vfio.VFIO_IOMMU_UNMAP_DMA, vfio.vfio_iommu_type1_dma_unmap(
                    argsz=24, iova=page, size=draw.randrange(1, 33) * PAGE)),
                lambda: proc.ioctl(fd, vfio.VFIO_IOMMU_UNMAP_DMA, vfio.vfio_iommu_type1_dma_unmap(argsz=24, flags=2)),
                lambda: proc.ioctl(fd, iommufd.IOMMU_IOAS_ALLOC, iommufd.iommu_ioas_alloc(size=12)),
                lambda: proc.ioctl(fd, iommufd.IOMMU_IOAS_MAP, iommufd.iommu_ioas_map(
                    size=40, flags=draw.choice((6, 7)), ioas_id=draw.randrange(4), user_va=self._pointer(proc),
                    length=draw.randrange(1, 5) * PAGE, iova=page)),
                lambda: proc.ioctl(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.vfio_device_bind_iommufd(
                    argsz=16, iommufd=self._fd(proc))),
                lambda: proc.ioctl(fd, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, vfio.vfio_device_attach_iommufd_pt(
                    argsz=12, pt_id=draw.randrange(5))),
                lambda: proc.ioctl(fd, vfio.VFIO_DEVICE_RESET),
            )
        )()  # fmt: skip

    @staticmethod
    def _s32(n: int) -> bytearray:
        return bytearray((n & 0xFFFFFFFF).to_bytes(4, "little"))

    def _device(self, proc: Process, fd: int) -> None:
        name = self.random.choice(self.names).encode() + b"\0"
        self.fds[proc].append(proc.ioctl(fd, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(name.ljust(ROOM, b"\0"))))

    def map(self, proc: Process) -> None:
        """Memory, or a part of a device."""
        draw = self.random
        if draw.random() < 0.5:
            at = proc.mmap(0, 64 * PAGE, draw.choice((1, 3, 3, 3)), MAP_PRIVATE | MAP_ANONYMOUS)
        else:
            offset = draw.randrange(9) << 40 | draw.choice((0, PAGE, 1 << 16))
            at = proc.mmap(0, draw.choice((PAGE, 4 * PAGE)), PROT_READ | PROT_WRITE, MAP_SHARED, self._fd(proc), offset)
        self.memory[proc].append(at)

    def unmap(self, proc: Process) -> None:
        """It may be in use by a device."""
        proc.munmap(self._pointer(proc) & -PAGE, self.random.choice((PAGE, 64 * PAGE)))

    def access(self, proc: Process) -> None:
        """Loads and stores."""
        if self.random.random() < 0.5:
            proc.load(self._pointer(proc), self.random.choice((1, 4, 8)))
        else:
            proc.store(self._pointer(proc), self.random.randbytes(self.random.choice((1, 4, 8))))

    def _offset(self) -> int:
        return self.random.randrange(11) << 40 | self.random.choice((0, 4, 0x3D, 0x40, 0xFF, 0xFFF, PAGE, 1 << 20))

    def read(self, proc: Process) -> None:
        """Somewhere in a region."""
        proc.pread(self._fd(proc), self.random.choice((0, 1, 2, 3, 4, 8, 24, 257, PAGE)), self._offset())

    def write(self, proc: Process) -> None:
        """Somewhere in a region."""
        data = self.random.randbytes(self.random.choice((0, 1, 2, 3, 4, 8, 40)))
        proc.pwrite(self._fd(proc), data, self._offset())

    def poll(self, proc: Process) -> None:
        """What is ready; time passes."""
        proc.poll([(self._fd(proc), 5)], self.random.choice((0, 1, 20)))

    def fork(self, proc: Process) -> None:
        """A child with the same descriptors and memory."""
        if len(self.processes) < 6:
            child = proc.fork()
            self.processes.append(child)
            self.fds[child], self.memory[child] = list(self.fds[proc]), list(self.memory[proc])

    def die(self, proc: Process) -> None:
        """Killed, whatever it holds; another takes its place."""
        proc.exit(128 + signal.SIGKILL)
        self.processes.remove(proc)
        fresh = self.kernel.process(comm="vandal")
        self.processes.append(fresh)
        self.fds[fresh], self.memory[fresh] = [], []
