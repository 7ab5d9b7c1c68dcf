"""A small machine for the surface's tests: a kobject with all kinds of attributes, a device, removable children."""

from __future__ import annotations

import os
from errno import EAGAIN, EINVAL, EPERM
from typing import ClassVar

from pykernel.errors import Oops, err
from pykernel.fs.chardev import MKDEV, Chrdevs
from pykernel.fs.rootfs import DevTmpFs
from pykernel.fs.sysfs import AttrGroup, BinAttr, Kobject, SysFs
from pykernel.fs.vfs import File, Inode, PollTable
from pykernel.kernel import Kernel
from pykernel.profile import PROFILES
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM

TOY_MAJOR = 240


class Child(Kobject):
    """A kobject that a store to the parent's ``remove`` takes away."""

    attrs: ClassVar = AttrGroup("name")

    def name_show(self) -> str:
        return f"{self.name}\n"


class Toy(Kobject):
    """/sys/devices/toy."""

    attrs: ClassVar = (
        AttrGroup(
            "value",
            "only",
            "secret",
            "fail",
            "broken",
            "big",
            "add",
            "remove",
            "notify",
            "caller",
            "hang",
            modes={"secret": 0o600},
        ),
        AttrGroup("inner", name="group"),
    )
    bin_attrs: ClassVar = (BinAttr("config", 0o644, 256, "config_read", "config_write"),)

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "toy", kernel.sub(SysFs).top["devices"])
        self.value = "1"
        self.stores: list[str] = []
        self.config = bytearray(range(256))
        self.children: dict[str, Child] = {}

    def value_show(self) -> str:
        return f"{self.value}\n"

    def value_store(self, buf: str) -> None:
        self.stores.append(buf)
        if buf.strip() == "bad":
            raise err(EINVAL)
        self.value = buf.strip()

    def only_show(self) -> str:
        return "read\n"

    def secret_show(self) -> str:
        return "s\n"

    def secret_store(self, buf: str) -> None:
        self.value = buf

    def fail_store(self, buf: str) -> None:
        raise err(EPERM)

    def broken_show(self) -> str:
        return str(1 // 0)

    def big_show(self) -> str:
        return "x" * 4000 + "\n"

    def add_store(self, buf: str) -> None:
        child = self.children[buf.strip()] = Child(self.kernel, buf.strip(), self)
        child.add()

    def remove_store(self, buf: str) -> None:
        self.children.pop(buf.strip()).delete()

    def notify_store(self, buf: str) -> None:
        self.value = buf.strip()
        self.sysfs_notify("value")

    def caller_show(self) -> str:
        task = self.kernel.current
        cred = task.cred
        return f"{task.comm} {task.tgid > 0} {cred.uid} {cred.gid} {sorted(cred.groups)} {cred.caps:x}\n"

    def hang_show(self) -> str:
        while True:
            pass

    def inner_show(self) -> str:
        return "inner\n"

    def config_read(self, file: File, off: int, count: int) -> bytes:
        return bytes(self.config[off : off + count])

    def config_write(self, file: File, off: int, data: bytes) -> int:
        self.config[off : off + len(data)] = data
        return len(data)


class ToyFile(File):
    """
    /dev/toy/0: echoes what was written; ioctl 0x5500 adds one to the int at *arg*; not seekable.

    "crash" left in it is a bug at release.
    """

    __slots__ = ("data",)
    seekable = False

    def __init__(self, inode: Inode, flags: int) -> None:
        super().__init__(inode, flags)
        self.data = b""
        inode.kernel.sub(ToyFiles).live.append(self)

    def pread(self, pos: int, count: int) -> bytes:
        if not self.data and self.flags & os.O_NONBLOCK:
            raise err(EAGAIN)
        self.inode.kernel.sub(ToyFiles).queue.wait_event(lambda: bool(self.data))
        data, self.data = self.data[:count], self.data[count:]
        return data

    def pwrite(self, pos: int, data: bytes) -> int:
        self.data += data
        self.inode.kernel.sub(ToyFiles).queue.wake_up()
        return len(data)

    def poll(self, pt: PollTable) -> int:
        pt.poll_wait(self.inode.kernel.sub(ToyFiles).queue)
        return EPOLLOUT | EPOLLWRNORM | (EPOLLIN | EPOLLRDNORM if self.data else 0)

    def ioctl(self, cmd: int, arg: int) -> int:
        if cmd != 0x5500:
            return super().ioctl(cmd, arg)
        mm = self.inode.kernel.current.mm
        assert mm is not None
        mem = mm.mem
        mem.write(arg, (int.from_bytes(mem.read(arg, 4), "little") + 1).to_bytes(4, "little"))
        return 7

    def release(self) -> None:
        self.inode.kernel.sub(ToyFiles).live.remove(self)
        if self.data == b"crash":
            raise Oops("release")


class ToyFiles:
    """The open files of the device."""

    def __init__(self, kernel: Kernel) -> None:
        self.live: list[ToyFile] = []
        self.queue = kernel.waitqueue()


def toy_kernel() -> tuple[Kernel, Toy]:
    """A kernel with the toy in it."""
    kernel = Kernel(PROFILES["linux-6.1"], {}, clock="monotonic")
    toy = Toy(kernel)
    toy.add()
    kernel.sub(SysFs).top["class"].create_link(toy, "toy")
    kernel.sub(Chrdevs).add(MKDEV(TOY_MAJOR, 0), ToyFile)
    kernel.sub(DevTmpFs).create_node("toy/0", 0o600, MKDEV(TOY_MAJOR, 0))
    kernel.sub(DevTmpFs).create_node("toy/all", 0o666, MKDEV(TOY_MAJOR, 0))
    return kernel, toy


__all__ = ["Toy", "ToyFiles", "toy_kernel"]
