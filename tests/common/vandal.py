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
KINDS = {
    "VfioContainerFile": ("VFIO_GET_API", "VFIO_CHECK", "VFIO_SET_IOMMU", "VFIO_IOMMU"),
    "VfioGroupFile": ("VFIO_GROUP",),
    "VfioDeviceFile": ("VFIO_DEVICE",),
    "VfioCdevFile": ("VFIO_DEVICE",),
    "IommufdFile": ("IOMMU_", "VFIO_IOMMU"),
}
"""What each kind of file is for: beginnings of the names of its ioctls."""
NAMES = {name: row for module in (vfio, iommufd) for name, row in vars(module).items() if isinstance(row, Ioctl)}


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
            (3, self.prepare), (8, self.open), (40, self.ioctl), (14, self.sensible), (6, self.eventfd), (8, self.close),
            (2, self.dup), (4, self.map), (2, self.unmap), (4, self.access), (4, self.read), (4, self.write),
            (2, self.poll), (1, self.fork), (1, self.die),
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

    def _fd(self, proc: Process, kind: str = "") -> int:
        """A descriptor, of a class whose name has *kind* in it if there is one; sometimes any number."""
        known = [fd for fd in self.fds[proc] if fd in proc.fds.files]
        right = [fd for fd in known if kind and kind in type(proc.fds.files[fd]).__name__]
        if self.random.random() < 0.05 or not known:
            return self.random.randrange(-2, 40)
        return self.random.choice(right if right and self.random.random() < 0.9 else known)

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

    def prepare(self, proc: Process) -> None:
        """What a proper client begins with: a device by its group or its own node, and memory that it can reach."""
        memory = proc.mmap(0, 64 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS)
        self.memory[proc].append(memory)
        fds = self.fds[proc]
        v, i = vfio, iommufd
        node = self.random.choice([path for path in self.paths if path[-1].isdecimal()])
        fds.append(device := proc.open(node, os.O_RDWR))
        iova = self.random.randrange(8) * 64 * PAGE
        if "devices" in node:
            fds.append(fd := proc.open("/dev/iommu", os.O_RDWR))
            proc.ioctl(device, v.VFIO_DEVICE_BIND_IOMMUFD, v.vfio_device_bind_iommufd(argsz=16, iommufd=fd))
            ioas = i.iommu_ioas_alloc(size=12)
            proc.ioctl(fd, i.IOMMU_IOAS_ALLOC, ioas)
            attach = v.vfio_device_attach_iommufd_pt(argsz=12, pt_id=ioas.out_ioas_id)
            proc.ioctl(device, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)
            area = i.iommu_ioas_map(size=40, flags=7, ioas_id=ioas.out_ioas_id, user_va=memory, iova=iova)
            area.length = 64 * PAGE
            proc.ioctl(fd, i.IOMMU_IOAS_MAP, area)
            return
        fds.append(box := proc.open("/dev/vfio/vfio", os.O_RDWR))
        proc.ioctl(device, v.VFIO_GROUP_SET_CONTAINER, self._s32(box))
        proc.ioctl(box, v.VFIO_SET_IOMMU, self.random.choice((1, 3)))
        row = v.vfio_iommu_type1_dma_map(argsz=32, flags=3, vaddr=memory, iova=iova, size=64 * PAGE)
        proc.ioctl(box, v.VFIO_IOMMU_MAP_DMA, row)
        for name in self.names:
            try:
                self._device(proc, device, name)
                return
            except OSError:
                continue

    def ioctl(self, proc: Process) -> None:
        """Any number, mostly one that the file knows; any argument."""
        fd = self._fd(proc)
        begin = KINDS.get(type(proc.fds.files.get(fd)).__name__, ())
        rows = [row for name, row in NAMES.items() if begin and name.startswith(begin)]
        row = self.random.choice(rows if rows and self.random.random() < 0.9 else ROWS)
        number = row.nr if self.random.random() < 0.97 else self.random.getrandbits(32)
        kind = self.random.random()
        if kind < 0.1:
            arg: int | bytearray = self._pointer(proc)
        elif kind < 0.2:
            arg = self.random.choice(WORDS[:16])
        else:
            arg = self._payload(proc, row)
        result = proc.ioctl(fd, number, arg)
        if result > 2 and result in proc.fds.files and result not in self.fds[proc]:
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
        draw, i, v = self.random, iommufd, vfio
        page, pages, ioas = draw.randrange(64) * PAGE, draw.randrange(1, 9) * PAGE, draw.randrange(4)
        box, fd = self._fd(proc, "Container"), self._fd(proc, "Iommufd")
        group, cdev, device = (self._fd(proc, kind) for kind in ("Group", "Cdev", "VfioDevice"))
        either, user = draw.choice((box, box, fd)), self._pointer(proc)
        calls: tuple[tuple[int, Ioctl, object], ...] = (
            (group, v.VFIO_GROUP_SET_CONTAINER, self._s32(either)),
            (box, v.VFIO_SET_IOMMU, draw.choice((1, 3))),
            (either, v.VFIO_IOMMU_MAP_DMA, v.vfio_iommu_type1_dma_map(
                argsz=32, flags=3, vaddr=user & -PAGE, iova=page, size=pages)),
            (either, v.VFIO_IOMMU_UNMAP_DMA, v.vfio_iommu_type1_dma_unmap(argsz=24, iova=page, size=4 * pages)),
            (box, v.VFIO_IOMMU_UNMAP_DMA, v.vfio_iommu_type1_dma_unmap(argsz=24, flags=2)),
            (fd, i.IOMMU_IOAS_ALLOC, i.iommu_ioas_alloc(size=12)),
            (fd, i.IOMMU_IOAS_MAP, i.iommu_ioas_map(
                size=40, flags=draw.choice((6, 7)), ioas_id=ioas, user_va=user, length=pages, iova=page)),
            (fd, i.IOMMU_IOAS_UNMAP, i.iommu_ioas_unmap(size=24, ioas_id=ioas, iova=page, length=4 * pages)),
            (cdev, v.VFIO_DEVICE_BIND_IOMMUFD, v.vfio_device_bind_iommufd(argsz=16, iommufd=fd)),
            (cdev, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, v.vfio_device_attach_iommufd_pt(argsz=12, pt_id=draw.randrange(5))),
            (device, v.VFIO_DEVICE_RESET, 0),
            (device, v.VFIO_DEVICE_SET_IRQS, self._irq_set(proc)),
        )  # fmt: skip
        pick = draw.randrange(len(calls) + 3)
        if pick < len(calls):
            proc.ioctl(*calls[pick])  # type: ignore[arg-type]
        elif pick == len(calls):
            proc.pwrite(draw.choice((device, cdev)), draw.choice((b"\6\0", b"\0\0")), 7 << 40 | 4)
        else:
            self._device(proc, group)

    def _irq_set(self, proc: Process) -> bytearray:
        draw, event = self.random, self._fd(proc, "EventFd")
        flags, count = draw.choice((0x24, 0x21, 0x22, 0x09, 0x11, 0x14)), draw.choice((0, 1))
        head = vfio.vfio_irq_set(argsz=24, flags=flags, index=draw.randrange(5), count=count)
        return bytearray(bytes(head)[:20]) + self._s32(event)

    @staticmethod
    def _s32(n: int) -> bytearray:
        return bytearray((n & 0xFFFFFFFF).to_bytes(4, "little"))

    def _device(self, proc: Process, fd: int, name: str = "") -> None:
        word = (name or self.random.choice(self.names)).encode() + b"\0"
        self.fds[proc].append(proc.ioctl(fd, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(word.ljust(ROOM, b"\0"))))

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
