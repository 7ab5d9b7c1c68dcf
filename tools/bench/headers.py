"""The facts of headers at work: a struct packed and unpacked, beside its peers; all headers compared with real ones."""

from __future__ import annotations

import ctypes
import shutil
import struct
import sys
from collections.abc import Callable, Iterator

from pykernel.tools.bench.measure import Row, per_call, wall
from pykernel.uapi.linux.idxd import dsa_hw_desc
from pykernel.uapi.linux.vfio import vfio_device_info

__all__ = ["rows"]

FIELDS = ("argsz", "flags", "num_regions", "num_irqs", "cap_offset", "pad")
FLOOR = "struct pack+unpack, struct.Struct"


class CtypesInfo(ctypes.Structure):
    """``struct vfio_device_info`` for the peer."""

    _fields_ = [(name, ctypes.c_uint32) for name in FIELDS]


def _ours() -> int:
    data = bytes(vfio_device_info(argsz=24, flags=2, num_regions=9, num_irqs=5, cap_offset=0, pad=0))
    return vfio_device_info.from_bytes(data).num_irqs


def _ours_bits() -> int:
    data = bytes(dsa_hw_desc(pasid=1, opcode=3, flags=12, src_addr=1 << 32, dst_addr=2 << 32, xfer_size=4096))
    return dsa_hw_desc.from_bytes(data).xfer_size


def _ctypes() -> int:
    data = bytes(CtypesInfo(argsz=24, flags=2, num_regions=9, num_irqs=5, cap_offset=0, pad=0))
    return int(CtypesInfo.from_buffer_copy(data).num_irqs)


def _struct() -> Callable[[], int]:
    layout = struct.Struct("<6I")

    def one() -> int:
        values: tuple[int, ...] = layout.unpack(layout.pack(24, 2, 9, 5, 0, 0))
        return values[3]

    return one


def rows() -> Iterator[Row]:
    """Six numbers, in and out: ours, ctypes and struct in the same run; a descriptor with bit-fields; the checker."""
    yield Row(FLOOR, per_call(_struct(), calls=5000))
    yield Row("struct pack+unpack, ctypes.Structure", per_call(_ctypes, calls=5000), None, FLOOR)
    yield Row("struct pack+unpack, vfio_device_info", per_call(_ours, calls=5000), 2e-6, FLOOR)
    yield Row("struct pack+unpack, dsa_hw_desc, 6 fields set", per_call(_ours_bits, calls=5000), None, FLOOR)
    if shutil.which("cc"):
        check = [sys.executable, "-m", "pykernel.tools.cli", "uapi", "check"]
        yield Row("pykernel uapi check, all headers", wall(check, times=3), 15.0)
