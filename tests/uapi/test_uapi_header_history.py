"""What structs were before they grew: recorded sizes of real headers, and shapes with known answers."""

from __future__ import annotations

import subprocess
from collections.abc import MutableSequence
from importlib import import_module
from typing import Annotated

import pytest

from pykernel.uapi.history import AGELESS, Version, at, nr_at, parse, sizes
from pykernel.uapi.ioctl import _IO, _IOWR
from pykernel.uapi.struct import ZERO, Bits, Struct, Union, anon_struct, anon_union, layout, u8, u16, u32, u64

# sizeof, as cc gave it for the headers of these kernels: the last of one size, the first of the next
RECORDED = [
    ("vfio", "vfio_device_info", "3.10:16 5.9:16 5.10:20 6.5:20 6.6:24 7.3:24"),
    ("vfio", "vfio_iommu_type1_info", "3.10:16 5.3:16 5.4:24 7.3:24"),
    ("vfio", "vfio_device_bind_iommufd", "6.6:16 6.13:16 6.19:24"),
    ("vfio", "vfio_device_attach_iommufd_pt", "6.6:12 6.13:12 6.19:16"),
    ("vfio", "vfio_region_info", "3.10:32 7.3:32"),
    ("iommufd", "iommu_hwpt_alloc", "6.6:24 6.7:40 6.10:40 6.11:48 7.3:48"),
    ("iommufd", "iommu_hw_info", "6.6:32 6.7:40 7.3:40"),
    ("virtio_blk", "virtio_blk_config", "3.18:36 4.20:36 5.0:60 6.0:60 6.1:72 6.2:72 6.3:96 7.3:96"),
    ("virtio_net", "virtio_net_config", "3.10:10 4.7:10 4.8:12 4.15:12 4.17:17 5.6:17 5.7:24 7.3:24"),
    ("idxd", "dsa_completion_record", "6.1:32 6.12:32"),
    ("idxd", "dsa_hw_desc", "5.10:64 6.1:64 6.12:64"),
    ("idxd", "iax_completion_record", "5.11:64 5.18:64 5.19:64 6.12:64"),
]


@pytest.mark.parametrize(("header", "name", "recorded"), RECORDED, ids=[row[1] for row in RECORDED])
def test_sizes_are_those_of_real_headers(header: str, name: str, recorded: str) -> None:
    cls = getattr(import_module(f"pykernel.uapi.linux.{header}"), name)
    rows = [row.split(":") for row in recorded.split()]

    assert [f"{version}:{at(cls, parse(version)).sizeof()}" for version, _ in rows] == recorded.split()
    changes = [size for _, size in sizes(cls)]
    assert changes[-1] == cls.sizeof() == int(rows[-1][1])
    assert {int(size) for _, size in rows} <= set(changes)


class grown(Struct):
    a: u32 = 0
    reserved_once: u16 = 0
    b: u16 = 0
    _u = anon_union(until="big")
    small: u32 = 0
    big: u64 = 0
    _s = anon_struct(until="d")
    c: Annotated[u32, Bits(4)] = 0
    d: Annotated[u32, Bits(4)] = 0
    _end = anon_union(until="late")
    later: Annotated[MutableSequence[int], u8, 12] = ZERO
    late: u8 = 0


class either(Union):
    one: u8 = 0
    two: u64 = 0


class holder(Struct):
    n: u64 = 0
    all: Annotated[MutableSequence[grown], grown, 2] = ZERO
    e: either = ZERO


class filled(Struct):
    a: u32 = 0
    b: u32 = 0


SAME_SIZE = frozenset({"filled"})
NEWER = {
    "filled.b": "5.1",
    "grown.reserved_once": "5.1",
    "grown.big": "5.2",
    "grown.d": "5.3",
    "grown.later": "5.4",
    "grown.late": "5.4",
    "either.two": "5.5",
}


IN_C = """
#include <linux/types.h>
struct v50 { __u32 a; __u16 r, b; __u32 small; __u32 c:4; };
struct v52 { __u32 a; __u16 r, b; union { __u32 small; __u64 big; }; __u32 c:4; };
struct v54 { __u32 a; __u16 r, b; union { __u32 small; __u64 big; }; __u32 c:4, d:4; union { __u8 later[12], late; }; };
#define HOLDER(inner, e) struct { __u64 n; struct inner all[2]; e one; }
_Static_assert(sizeof(struct v50) == 16 && sizeof(struct v52) == 24 && sizeof(struct v54) == 32, "");
_Static_assert(sizeof(HOLDER(v50, __u8)) == 48 && sizeof(HOLDER(v52, __u8)) == 64, "");
_Static_assert(sizeof(HOLDER(v54, __u8)) == 80 && sizeof(HOLDER(v54, __u64)) == 80, "");
"""


@pytest.mark.usefixtures("kernel_headers")
def test_numbers_below_are_those_of_a_c_compiler(cc: str) -> None:
    """The kernels of struct grown and struct holder, written out."""
    subprocess.run([cc, "-fsyntax-only", "-x", "c", "-"], input=IN_C, text=True, check=True)


def test_members_at_the_end_and_of_unions_go_members_in_the_middle_were_reserved() -> None:
    assert sizes(grown) == (("", 16), ("5.2", 24), ("5.4", 32))
    first = at(grown, Version(5, 0))
    assert [f.name for f in layout(first)] == ["a", "reserved_once", "b", "small", "c"]
    assert (first.offsetof("b"), first.offsetof("small")) == (6, 8)
    assert [f.name for f in layout(at(grown, Version(5, 3)))] == ["a", "reserved_once", "b", "small", "big", "c", "d"]


def test_what_contains_a_struct_that_grew_grew_with_it() -> None:
    """u64, two of 16 or 24 or 32 bytes, and a union of 1 or 8."""
    assert sizes(either) == (("", 1), ("5.5", 8))
    assert sizes(holder) == (("", 48), ("5.2", 64), ("5.4", 80))
    assert at(holder, Version(5, 4)).offsetof("e") == 72


def test_struct_that_did_not_change_is_itself() -> None:
    assert at(grown, AGELESS) is grown
    assert at(grown, Version(5, 4)) is grown
    assert at(grown, Version(5, 3)) is at(grown, Version(5, 3)) is not grown


def test_members_that_took_the_place_of_reserved_bytes_change_no_size() -> None:
    """struct filled { __u32 a; __u32 reserved; } before 5.1."""
    assert sizes(filled) == (("", 8),)
    assert at(filled, Version(5, 0)) is filled


def test_first_size_is_that_of_the_kernel_that_brought_the_struct() -> None:
    table = {"grown": "5.0", "grown.later": "5.4", "grown.late": "5.4"}
    assert sizes(grown, table) == (("5.0", 24), ("5.4", 32))


def test_ioctl_had_another_number_before_its_struct_grew() -> None:
    """_IOWR('g', 1, struct grown) has the size in bits 16 to 29; an _IO has none."""
    assert nr_at(_IOWR(ord("g"), 1, grown), Version(5, 0)) == 0xC0106701
    assert nr_at(_IOWR(ord("g"), 1, grown), Version(5, 4)) == 0xC0206701
    assert nr_at(_IO(ord("g"), 1, grown), Version(5, 0)) == 0x6701


@pytest.mark.parametrize(
    ("text", "version"), [("6.1", (6, 1)), ("6.12.107", (6, 12)), ("v6.12", (6, 12)), ("6.1.0-18-amd64", (6, 1))]
)
def test_version_is_read_as_uname_and_tags_have_it(text: str, version: tuple[int, int]) -> None:
    assert parse(text) == version


@pytest.mark.parametrize("text", ["", "6", "six.one", "6.1.2.3", "6.x"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no kernel version: give one like 6\.12"):
        parse(text)
