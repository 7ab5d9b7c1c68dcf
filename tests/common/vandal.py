"""
A client without manners: random calls on descriptors of VFIO, IOMMUFD, eventfds, with nearly right arguments.

``Vandal(kernel, seed)`` owns a few processes; ``step()`` lets one of them do one thing. Only an errno may come back.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from types import ModuleType

from pykernel.kernel import Kernel
from pykernel.sched import Thread
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

    def __init__(self, kernel: Kernel, seed: int, names: list[str], mdev_type: str) -> None:
        self.kernel, self.random = kernel, random.Random(seed)
        self.names, self.mdev_type = names, mdev_type
        self.root = kernel.process(comm="root")
        self.orders: dict[str, Thread] = {}
        self.processes = [kernel.process(comm=f"vandal{n}", uid=uid) for n, uid in enumerate((0, 0, 1000))]
        self.fds: dict[Process, list[int]] = {p: [] for p in self.processes}
        self.memory: dict[Process, list[int]] = {p: [] for p in self.processes}
        self.said: Counter[str] = Counter()
        """How often a call was answered how, "<what>: <result>"; ``sensible`` ones by their struct."""
        self.acts: list[tuple[int, Callable[[Process], object]]] = [
            (8, self.prepare), (4, self.open), (40, self.ioctl), (40, self.sensible), (4, self.eventfd),
            (4, self.close), (2, self.dup), (4, self.map), (2, self.unmap), (4, self.access), (4, self.read),
            (4, self.write), (2, self.poll), (1, self.fork), (1, self.die), (3, self.let_go),
            (2, self.administer),
        ]  # fmt: skip

    def step(self) -> None:
        """One call of one process."""
        proc = self._who()
        act = self.random.choices([a for _, a in self.acts], [w for w, _ in self.acts])[0]
        self.what = act.__name__
        try:
            act(proc)
            said = "ok"
        except OSError as e:
            said = errno.errorcode[e.errno or 0]
        self.said[f"{self.what}: {said}"] += 1

    def _who(self) -> Process:
        """Mostly one that has a device."""
        have = [
            proc
            for proc, fds in self.fds.items()
            if proc in self.processes
            and any(type(proc.fds.files.get(fd)).__name__ in ("VfioDeviceFile", "VfioCdevFile") for fd in fds)
        ]
        return self.random.choice(have if have and self.random.random() < 0.7 else self.processes)

    def end(self) -> None:
        """Everybody exits, and what waited for them is done."""
        for proc in list(self.processes):
            proc.exit()
        self.kernel.sched.run_until(list(self.orders.values()))
        self.root.exit()

    @property
    def paths(self) -> list[str]:
        """The nodes that there are."""
        root = self.root
        groups = [f"/dev/vfio/{name}" for name in root.listdir("/dev/vfio") if name.isdecimal()]
        nodes = [f"/dev/vfio/devices/{name}" for name in root.listdir("/dev/vfio/devices")] if self._new() else []
        return ["/dev/vfio/vfio", *groups, *nodes, *(["/dev/iommu"] if self._new() else [])]

    def _new(self) -> bool:
        return "iommu" in self.root.listdir("/dev")

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

    def let_go(self, proc: Process) -> None:
        """Everything that it still has."""
        for fd in [fd for fd in self.fds[proc] if fd in proc.fds.files]:
            proc.close(fd)
        self.fds[proc] = []

    def dup(self, proc: Process) -> None:
        """Two for one."""
        self.fds[proc].append(proc.dup(self._fd(proc)))

    def prepare(self, proc: Process) -> None:
        """What a proper client begins with: a device by its group or its own node, and memory that it can reach."""
        fds: list[int] = []
        try:
            self._prepare(proc, fds)
        except OSError:
            for fd in fds:
                proc.close(fd)
            raise
        self.fds[proc] += fds

    def _prepare(self, proc: Process, fds: list[int]) -> None:
        memory = proc.mmap(0, 64 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS)
        self.memory[proc].append(memory)
        v, i = vfio, iommufd
        node = self.random.choice([path for path in self.paths if path[-1].isdecimal()] or ["/dev/vfio/0"])
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
        device = draw.choice((device, device, cdev))
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
            *((device, v.VFIO_DEVICE_SET_IRQS, self._irq_set(proc)) for _ in range(6)),
            *self._logs(proc, either, fd, device),
            *self._objects(proc, fd),
            *self._rarely(proc, device, group),
        )  # fmt: skip
        fit = [call for call in calls if self._fits(proc, call[0], call[1])]
        if draw.random() < 0.9 and fit:
            target, row, arg = draw.choice(fit)
            self.what = row.struct.__name__ if row.struct is not None else "sensible"
            proc.ioctl(target, row, arg)  # type: ignore[arg-type]
        elif draw.random() < 0.3:
            proc.pwrite(draw.choice((device, cdev)), draw.choice((b"\6\0", b"\0\0")), 7 << 40 | 4)
        else:
            self._device(proc, group)

    @staticmethod
    def _fits(proc: Process, fd: int, row: Ioctl) -> bool:
        begin = KINDS.get(type(proc.fds.files.get(fd)).__name__, ())
        return any(found is row and begin and name.startswith(begin) for name, found in NAMES.items())

    def _irq_set(self, proc: Process) -> bytearray:
        draw = self.random
        flags, count = draw.choice((0x24, 0x24, 0x24, 0x21, 0x22, 0x09, 0x11, 0x14)), draw.choice((0, 1, 1, 1, 2, 40))
        events = b"".join(bytes(self._s32(draw.choice((-1, self._fd(proc, "EventFd"))))) for _ in range(count))
        head = vfio.vfio_irq_set(
            argsz=20 + len(events),
            flags=flags,
            index=draw.choice((0, 1, 1, 2, 2, 3, 4)),
            start=draw.choice((0, 0, 0, 1)),
            count=count,
        )
        return bytearray(bytes(head)[:20]) + events

    def _logs(self, proc: Process, box: int, fd: int, device: int) -> tuple[tuple[int, Ioctl, object], ...]:
        """What was written by devices: type 1's, IOMMUFD's, a device's own."""
        draw, v, i = self.random, vfio, iommufd
        iova, size, hwpt = draw.randrange(64) * PAGE, draw.randrange(1, 65) * PAGE, draw.randrange(1, 6)
        bitmap = struct.pack("<QQQ", PAGE, 8, self._pointer(proc))
        feature = struct.pack("<II", 64, draw.choice((1 << 16, 1 << 17, 1 << 18)) | draw.randrange(12))
        return (
            (box, v.VFIO_IOMMU_UNMAP_DMA, bytearray(struct.pack("<IIQQ", 48, 1, iova, size) + bitmap)),
            (box, v.VFIO_IOMMU_UNMAP_DMA, v.vfio_iommu_type1_dma_unmap(argsz=24, flags=draw.choice((4, 6)))),
            (box, v.VFIO_IOMMU_DIRTY_PAGES, bytearray(struct.pack("<II", 8, draw.choice((1, 1, 2))))),
            (box, v.VFIO_IOMMU_DIRTY_PAGES, bytearray(struct.pack("<IIQQ", 48, 4, iova, size) + bitmap)),
            (fd, i.IOMMU_HWPT_SET_DIRTY_TRACKING, i.iommu_hwpt_set_dirty_tracking(
                size=16, flags=draw.choice((0, 1)), hwpt_id=hwpt)),
            (fd, i.IOMMU_HWPT_GET_DIRTY_BITMAP, i.iommu_hwpt_get_dirty_bitmap(
                size=48, hwpt_id=hwpt, iova=iova, length=size, page_size=PAGE, data=self._pointer(proc))),
            (device, v.VFIO_DEVICE_FEATURE, bytearray(
                feature + struct.pack("<QIIQ", draw.randrange(8), draw.choice((1, 0, 300)), 0, self._pointer(proc)))),
        )  # fmt: skip

    def _objects(self, proc: Process, fd: int) -> tuple[tuple[int, Ioctl, object], ...]:
        """IOMMUFD's, by numbers that are likely to be somebody's."""
        draw, i = self.random, iommufd
        one, two = draw.randrange(1, 7), draw.randrange(1, 7)
        return (
            (fd, i.IOMMU_IOAS_COPY, i.iommu_ioas_copy(
                size=40, flags=draw.choice((6, 7)), dst_ioas_id=one, src_ioas_id=two, length=PAGE,
                dst_iova=draw.randrange(64) * PAGE, src_iova=draw.randrange(64) * PAGE)),
            (fd, i.IOMMU_HWPT_ALLOC, i.iommu_hwpt_alloc(
                size=48, flags=draw.choice((0, 0, 2)), dev_id=one, pt_id=two)),
            (fd, i.IOMMU_GET_HW_INFO, i.iommu_hw_info(size=40, dev_id=one, data_len=64, data_uptr=self._pointer(proc))),
            (fd, i.IOMMU_DESTROY, i.iommu_destroy(size=8, id=one)),
            (fd, i.IOMMU_VFIO_IOAS, i.iommu_vfio_ioas(size=12, ioas_id=one, op=draw.randrange(3))),
            (fd, i.IOMMU_IOAS_UNMAP, i.iommu_ioas_unmap(size=24, ioas_id=one, length=WORDS[-1])),
        )  # fmt: skip

    def _rarely(self, proc: Process, device: int, group: int) -> tuple[tuple[int, Ioctl, object], ...]:
        """What few programs use."""
        draw, v = self.random, vfio
        offset, event = draw.randrange(3) << 40 | draw.choice((0, 4, 0x1004)), self._fd(proc, "EventFd")
        return (
            (device, v.VFIO_DEVICE_IOEVENTFD, v.vfio_device_ioeventfd(
                argsz=32, flags=draw.choice((1, 2, 4, 8)), offset=offset, data=1, fd=draw.choice((-1, event)))),
            (device, v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, bytearray(struct.pack("<III", ROOM, 0, 0).ljust(ROOM))),
            (device, v.VFIO_DEVICE_PCI_HOT_RESET, bytearray(struct.pack("<IIIi", 16, 0, 1, group))),
            (device, v.VFIO_DEVICE_DETACH_IOMMUFD_PT, v.vfio_device_detach_iommufd_pt(argsz=8)),
            (group, v.VFIO_GROUP_UNSET_CONTAINER, 0),
        )  # fmt: skip

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
            at = proc.mmap(
                0,
                draw.choice((PAGE, 4 * PAGE)),
                PROT_READ | PROT_WRITE,
                MAP_SHARED,
                self._fd(proc, "VfioDevice"),
                offset,
            )
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
        proc.pread(self._fd(proc, "VfioDevice"), self.random.choice((0, 1, 2, 3, 4, 8, 24, 257, PAGE)), self._offset())

    def write(self, proc: Process) -> None:
        """Somewhere in a region."""
        fd = self._fd(proc, "VfioDevice")
        if self.random.random() < 0.3:  # edu's DMA, from or to what may be mapped, and its interrupt
            for at, value in ((0x80, 1 << 12), (0x88, 0x40000), (0x90, 64), (0x98, self.random.randrange(8))):
                proc.pwrite(fd, struct.pack("<I", value * self.random.choice((1, 1, 1, 2))), at)
            return
        data = self.random.randbytes(self.random.choice((0, 1, 2, 3, 4, 8, 40)))
        proc.pwrite(fd, data, self._offset())

    def poll(self, proc: Process) -> None:
        """What is ready; time passes."""
        proc.poll([(self._fd(proc), 5)], self.random.choice((0, 1, 20)))

    def administer(self, proc: Process) -> None:
        """Root takes a device away, and waits while it is in use, or gives it again; one order for each at a time."""
        name = self.random.choice(self.names)
        if name in self.orders and not self.orders[name].done:
            return
        gone = self.random.random() < 0.3
        path, text = self._order(name, gone=gone)
        for node in self.paths:
            self.root.chmod(node, 0o666)

        def order() -> None:
            with suppress(OSError):
                self.root.write_text(path, text)

        self.orders[name] = self.kernel.spawn(order, f"order {name}")

    def _order(self, name: str, *, gone: bool) -> tuple[str, str]:
        if name.count("-") < 4:
            return f"/sys/bus/pci/drivers/vfio-pci/{'unbind' if gone else 'bind'}", name
        return (f"/sys/bus/mdev/devices/{name}/remove", "1") if gone else (f"{self.mdev_type}/create", name)

    def fork(self, proc: Process) -> None:
        """A child with the same descriptors and memory."""
        if len(self.processes) < 4:
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
