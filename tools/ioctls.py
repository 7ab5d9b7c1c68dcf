"""
``pykernel ioctls``: the support table, made from the tables that the kernel itself uses.

What a program under ``pykernel run`` meets is another column: it comes through FUSE and calls the host's kernel.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pykernel.fs.ioctl import IoctlMethods

__all__ = ["NOT_BUILT", "RUN", "Row", "command", "table"]


@dataclass(frozen=True, slots=True)
class Row:
    """
    One line: kind ("call", "ioctl", "header", "not built"), name, number of an ioctl, what is not as in Linux; ``run``:
    what is not, for a program under ``pykernel run``.
    """

    kind: str
    name: str
    number: str = ""
    note: str = ""
    run: str = ""


HOST = "the host's own, complete"

# call -> what a program under pykernel run gets instead of what Linux or kernel.process() gives
RUN: dict[str, str] = {
    "fstat": "an open device node is a regular file without a device number; stat() of its path is as here",
    "statfs": "as here; f_type is FUSE_SUPER_MAGIC where init cannot listen to the call (pykernel doctor: filter)",
    "mmap": "MAP_SHARED of a node or resource<N>: ENODEV (map from Python, or write() descriptors); "
    "MAP_PRIVATE of an attribute: a mapping that is SIGBUS when touched, where Linux says ENODEV",
    "sendfile": "from an emulated file: EINVAL (programs then read()); into one works",
    **dict.fromkeys(("socketpair", "sendmsg", "recvmsg", "execve", "setuid", "setgid"), HOST),
}


# what Linux has for these devices and this kernel has not: what a client meets
NOT_BUILT: tuple[Row, ...] = (
    Row("not built", "/dev/vhost-*", note="ENOENT: no vhost devices"),
    Row("not built", "/dev/kvm", note="ENOENT: no virtual machines"),
    Row("not built", "io_uring_setup", run="ENOSYS"),
    Row("not built", "splice", run="from an emulated file: EINVAL; into one works"),
    Row("not built", "uname", run="the host's; /proc/version is the emulated kernel's"),
    Row("not built", "syslog", run="the host's log; --dmesg prints the emulated kernel's"),
    Row("not built", "init_module, finit_module, delete_module",
        note="kernel.modules has them; or --modprobe, and [modules] of the machine",
        run="the host's: insmod and rmmod go to the host's kernel"),
    Row("not built", "AF_NETLINK sockets", run="the host's: no uevents of emulated devices"),
    Row("not built", "seccomp", run="the host's, but SECCOMP_FILTER_FLAG_NEW_LISTENER is EBUSY: there can be one only"),
    Row("not built", "perf_event_open on dsa<N>", note="no PMU, as on a part without one; dmesg says so"),
)  # fmt: skip


def calls() -> Iterator[Row]:
    """The system calls."""
    from pykernel.syscalls import SYSCALLS

    for row in SYSCALLS:
        yield Row("call", row.name, note=row.note, run=RUN.get(row.name, ""))


def vfs_ioctls() -> Iterator[Row]:
    """The ioctls that the VFS answers for every file."""
    from pykernel.fs import ioctl

    known = {n: name for name, n in vars(ioctl).items() if isinstance(n, int) and n in ioctl.VFS_IOCTLS}
    for number, name in sorted(known.items()):
        yield Row("ioctl", name, f"{number:#010x}", "any file")


def _answers() -> dict[int, list[str]]:
    """The ioctl rows of headers that somebody answers, by id(): who. One number may be several rows."""
    from pykernel.drivers.mdpy import MdpyDevice
    from pykernel.drivers.mtty.device import MttyDevice
    from pykernel.drivers.vdsa.device import VdsaDevice
    from pykernel.iommufd.main import OPS
    from pykernel.vfio.cdev import VfioCdevFile
    from pykernel.vfio.container import VfioContainerFile
    from pykernel.vfio.group import VfioGroupFile
    from pykernel.vfio.pci.core import VfioPciCoreDevice
    from pykernel.vfio.type1 import VfioIommuType1
    from pykernel.virt.kvm.device import KvmVfioDevice
    from pykernel.virt.kvm.main import KvmFile
    from pykernel.virt.kvm.vcpufile import VcpuFile
    from pykernel.virt.kvm.vmfile import VmFile

    files: dict[str, type[IoctlMethods]] = {
        "a VFIO container": VfioContainerFile,
        "a VFIO group": VfioGroupFile,
        "a VFIO device": VfioCdevFile,
        "vfio-pci": VfioPciCoreDevice,
        "mtty": MttyDevice,
        "mdpy": MdpyDevice,
        "vdsa": VdsaDevice,
        "/dev/kvm": KvmFile,
        "a virtual machine": VmFile,
        "a virtual processor": VcpuFile,
        "KVM's VFIO device": KvmVfioDevice,
    }
    found = [(call.row, who) for who, cls in files.items() for call in cls.ioctls().values()]
    found += [(row, "a VFIO container of type 1") for row in VfioIommuType1.rows]
    found += [(op.row, "/dev/iommu") for op in OPS]
    answers: dict[int, list[str]] = {}
    for row, who in found:
        answers.setdefault(id(row), []).append(who)
    return answers


def header_ioctls() -> Iterator[Row]:
    """The ioctls of the header modules in uapi/: number and struct are known; and who answers it."""
    import pykernel.uapi.linux as headers
    from pykernel.uapi.ioctl import Ioctl

    answers = _answers()
    for found in pkgutil.iter_modules(headers.__path__, headers.__name__ + "."):
        module = import_module(found.name)
        header = found.name.rpartition(".")[2]
        rows = [(row.nr, name, row) for name, row in vars(module).items() if isinstance(row, Ioctl)]
        for number, name, row in sorted(rows, key=lambda r: r[:2]):
            who = answers.get(id(row))
            none = "EINVAL, of a virtual machine ENOTTY" if header == "kvm" else "ENOTTY where no file answers it"
            note = f"answered by {', '.join(who)}" if who else none
            yield Row("header", name, f"{number:#010x}", f"linux/{header}.h; {note}")


def table() -> list[Row]:
    """All rows: calls, ioctls, and what is not built."""
    return [*calls(), *vfs_ioctls(), *header_ioctls(), *NOT_BUILT]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("name", required=False)
def command(as_json: bool, name: str | None) -> None:
    """
    Print what this kernel supports: system calls, ioctls, and what is not built.

    An ioctl that a file does not know is ENOTTY; a call that a file does not have gives the errno that Linux gives.
    The last column is what differs for programs under `pykernel run`: there, calls that name no emulated file are the
    host's own.
    NAME prints only the rows whose name has that text.
    """
    rows = [row for row in table() if name is None or name.lower() in row.name.lower()]
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table("kind", "name", "number", "note", "under pykernel run", box=None, pad_edge=False)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in (row.kind, row.name, row.number, row.note, row.run)))
    Console(highlight=False).print(drawn)
