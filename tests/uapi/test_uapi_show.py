"""Drawn structs: pahole(1) draws the same from the debug information of a compiled header."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, MutableSequence
from pathlib import Path
from typing import Annotated

import pytest

from pykernel.uapi import catalog, emit, pahole, ruler
from pykernel.uapi.check import headers
from pykernel.uapi.compiler import Compiler
from pykernel.uapi.history import Version
from pykernel.uapi.linux import idxd, vfio
from pykernel.uapi.shape import is_inline
from pykernel.uapi.struct import (
    ZERO,
    Bits,
    CType,
    Struct,
    Union,
    aligned_u64,
    anon_struct,
    anon_union,
    char,
    cname,
    layout,
    s8,
    u8,
    u16,
    u32,
    u64,
)


class hole(Struct):
    a: u8 = 0
    b: u64 = 0
    c: u8 = 0


class bits(Struct):
    a: u8 = 0
    x: Annotated[u32, Bits(3)] = 0
    y: Annotated[u32, Bits(9)] = 0
    z: u64 = 0
    w: Annotated[u16, Bits(3)] = 0
    v: Annotated[u16, Bits(5)] = 0
    t: s8 = 0
    last: Annotated[u32, Bits(30)] = 0


class mixed(Struct):
    x: Annotated[u32, Bits(3)] = 0
    y: Annotated[u32, Bits(9)] = 0
    a: u8 = 0
    w: Annotated[u16, Bits(12)] = 0
    z: Annotated[u64, Bits(40)] = 0
    e: Annotated[u32, Bits(9)] = 0


class bytewise(Struct):
    a: Annotated[u8, Bits(3)] = 0
    b: u8 = 0
    c: Annotated[u32, Bits(12)] = 0


class nameless_u(Union, ctype="__typeof__(((struct wide *)0)->u)"):
    big: u64 = 0
    small: u8 = 0


class wide(Struct):
    a: u8 = 0
    pad: Annotated[bytes, u8, 70] = b""
    inner: hole = ZERO
    _either = anon_union(until="q")
    word: u64 = 0
    _pair = anon_struct(until="q")
    p: u8 = 0
    q: u32 = 0
    u: nameless_u = ZERO
    many: Annotated[MutableSequence[hole], hole, 6] = ZERO
    tail: Annotated[bytes, u8, ...] = b""


class forced_in(Struct):
    f: u32 = 0
    x: aligned_u64 = 0
    n: Annotated[bytes, char, 3] = b""
    y: Annotated[MutableSequence[int], aligned_u64, 2] = ZERO


class forced(Struct):
    a: u8 = 0
    status: Annotated[u8, CType("volatile __u8")] = 0
    inner: forced_in = ZERO
    _either = anon_union(until="w")
    z: aligned_u64 = 0
    w: u32 = 0
    last: u8 = 0


class tight(Struct, packed=True):
    a: u8 = 0
    b: u32 = 0
    c: u16 = 0


class both(Union):
    all: u64 = 0
    parts: Annotated[MutableSequence[int], u16, 4] = ZERO


SHAPES = """
#include <linux/types.h>
struct hole { __u8 a; __u64 b; __u8 c; };
struct bits { __u8 a; __u32 x:3, y:9; __u64 z; __u16 w:3, v:5; __s8 t; __u32 last:30; };
struct mixed { __u32 x:3, y:9; __u8 a; __u16 w:12; __u64 z:40; __u32 e:9; };
struct bytewise { __u8 a:3; __u8 b; __u32 c:12; };
struct wide {
    __u8 a, pad[70];
    struct hole inner;
    union { __u64 word; struct { __u8 p; __u32 q; }; };
    union { __u64 big; __u8 small; } u;
    struct hole many[6];
    __u8 tail[];
};
struct forced_in { __u32 f; __aligned_u64 x; char n[3]; __aligned_u64 y[2]; };
struct forced {
    __u8 a;
    __volatile__ __u8 status;
    struct forced_in inner;
    union { __aligned_u64 z; __u32 w; };
    __u8 last;
};
struct tight { __u8 a; __u32 b; __u16 c; } __attribute__((packed));
union both { __u64 all; __u16 parts[4]; };
"""


def normal(lines: Iterable[str]) -> list[str]:
    """
    Without what differs on purpose: spaces, our remarks on kernels, [0] for [], whether packing is inferred, hints on
    how to write bit-fields.
    """
    text = "\n".join(
        line for line in lines if not re.search(r"/\* (Bitfield|Force) |:0;|last struct has .* holes?", line)
    )
    text = re.sub(r" /\* (since|reserved).*| __attribute__\(\(__packed__\)\)", "", text).replace("[0]", "[]")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def compiled(tmp_path: Path, cc: str, kernel_headers: None, require_program: Callable[[str], str]) -> object:
    """``compiled(text, names, *flags)``: what pahole draws of each struct that the text defines."""
    program = require_program("pahole")

    def draw(source: str, names: list[str], *flags: str) -> dict[str, list[str]]:
        values = "".join(f"{name} *v{n};\n" for n, name in enumerate(names))
        obj = tmp_path / "shapes.o"
        argv = [cc, "-g", "-c", "-w", *flags, "-x", "c", "-o", str(obj), "-"]
        subprocess.run(argv, input=f"{source}\n{values}", text=True, check=True)
        tags = [name.split()[-1] for name in names]
        return {
            tag: normal(
                subprocess.run(
                    [program, "-C", tag, obj], capture_output=True, text=True, check=True
                ).stdout.splitlines()
            )
            for tag in tags
        }

    return draw


Draw = Callable[..., dict[str, list[str]]]


def test_awkward_shapes_are_drawn_as_pahole_draws_them(compiled: Draw) -> None:
    """Holes of bytes and bits, padding, cache lines, groups with and without names, a flexible array, a union."""
    classes: list[type[Struct]] = [hole, bits, mixed, bytewise, wide, forced_in, forced, tight, both]
    theirs = compiled(SHAPES, [cname(cls) for cls in classes])

    for cls in classes:
        ours = normal(pahole.describe(cls))
        if cls is both:  # pahole sums up no union
            ours = [line for line in ours if not re.match(r"/\* (size|last cacheline):", line)]
        assert ours == theirs[cls.__name__]


@pytest.mark.parametrize("module", catalog.header_modules(), ids=catalog.title)
def test_every_struct_is_drawn_as_pahole_draws_it(module: object, compiled: Draw, tmp_path: Path) -> None:
    """Members, types, offsets, sizes, holes, sums: of our own header, which another test compares with the real one."""
    structs = [e.value for e in catalog.entries(module) if catalog.kind(e) == "struct" and not is_inline(e.value)]  # type: ignore[arg-type]
    emit.write(tmp_path, catalog.header_modules())
    path = next(iter(headers(module)), catalog.title(module))  # type: ignore[arg-type]
    theirs = compiled(f"#include <{path}>", [cname(cls) for cls in structs], f"-I{tmp_path}")

    assert {cls.__name__: normal(pahole.describe(cls)) for cls in structs} == theirs


PLACE = re.compile(r"([\w\[\]:]+)(?: __attribute__\S+)?; /\* (.*) \*/$")


def places(lines: list[str]) -> list[tuple[str, str]]:
    """Names and places of the members, without their types."""
    return [(m[1], " ".join(m[2].split())) for line in lines if (m := PLACE.search(line))]


REAL = [
    ("linux/vfio.h", ["vfio_device_info", "vfio_iommu_type1_info", "vfio_irq_set", "vfio_group_status"]),
    ("linux/idxd.h", ["dsa_hw_desc", "iax_hw_desc"]),
    ("linux/virtio_net.h", ["virtio_net_config", "virtio_net_hdr_v1", "virtio_net_hdr_mrg_rxbuf"]),
    ("linux/vhost_types.h", ["vhost_msg", "vhost_msg_v2", "vhost_memory"]),
]


@pytest.mark.parametrize(("header", "names"), REAL, ids=[row[0] for row in REAL])
def test_structs_of_installed_headers_lie_as_pahole_says(
    header: str, names: list[str], compiled: Draw, cc: str
) -> None:
    """Drawn as of the kernel whose headers are installed."""
    version, _ = Compiler(cc, None).version()
    module = catalog.find_module(header)
    theirs = compiled(f"#include <{header}>", [f"struct {name}" for name in names])

    for name in names:
        ours = normal(pahole.describe(getattr(module, name), version))
        assert places(ours) == places(theirs[name])
        assert [line for line in ours if "size:" in line] == [line for line in theirs[name] if "size:" in line]


def test_age_of_a_member_is_told() -> None:
    """vfio.h got pad in 6.6 at the end; idxd.h fault_info in 6.4, in the place of reserved bytes."""
    text = "\n".join(pahole.describe(vfio.vfio_device_info))
    assert "20     4 */ /* since Linux 6.6 */" in text
    assert "pad;" not in "\n".join(pahole.describe(vfio.vfio_device_info, Version(6, 5)))
    text = "\n".join(pahole.describe(idxd.dsa_completion_record, Version(6, 1)))
    assert "fault_info;           /*     2     1 */ /* reserved before 6.4 */" in text


EVERY = [e.value for m in catalog.header_modules() for e in catalog.entries(m) if catalog.kind(e) == "struct"]


def covered(cls: type[Struct]) -> set[int]:
    """The bytes in which a member has at least a bit: the naive model."""
    out: set[int] = set()
    for f in layout(cls):
        first, width = f.bits or (0, 8 * f.size)
        out |= {f.offset + bit // 8 for bit in range(first, first + width)}
    return out


@pytest.mark.parametrize("cls", [*EVERY, hole, bits, mixed, bytewise, wide, tight, both], ids=lambda cls: cls.__name__)
def test_ruler_has_every_byte_once_and_names_the_holes(cls: type[Struct]) -> None:
    at = 0
    for span in ruler.spans(cls):
        assert span.start == at < span.end
        assert set(range(span.start, span.end)) & covered(cls) == (
            set(range(span.start, span.end)) if span.text else set()
        )
        at = span.end
    assert at == cls.sizeof()
    rows = list(ruler.rows(cls))
    assert [byte for start, end, _ in rows for byte in range(start, end)] == list(range(cls.sizeof()))
    assert all(spans[0].start == start and spans[-1].end == end for start, end, spans in rows)


# Offsets as pahole gives them for the C above; a byte of which a member has a bit is that member's
@pytest.mark.parametrize(
    ("cls", "spans"),
    [
        (hole, [(0, 1, "a"), (1, 8, ""), (8, 16, "b"), (16, 17, "c"), (17, 24, "")]),
        (bits, [(0, 1, "a"), (1, 3, "x:3 y:9"), (3, 8, ""), (8, 16, "z"), (16, 17, "w:3 v:5"), (17, 18, "t"),
                (18, 20, ""), (20, 24, "last:30")]),
        (wide, [(0, 1, "a"), (1, 71, "pad"), (71, 72, ""), (72, 96, "inner"), (96, 104, "word +2"), (104, 112, "u"),
                (112, 256, "many")]),
        (both, [(0, 8, "all +1")]),
    ],
    ids=["hole", "bits", "wide", "both"],
)  # fmt: skip
def test_ruler_joins_bit_fields_and_counts_what_overlaps(cls: type[Struct], spans: list[tuple[int, int, str]]) -> None:
    assert ruler.spans(cls) == spans


def test_rows_within_one_member_are_one() -> None:
    rows = [(start, end, [span.text for span in spans]) for start, end, spans in ruler.rows(wide)]
    assert rows[:4] == [(0, 8, ["a", "pad"]), (8, 64, ["pad"]), (64, 72, ["pad", ""]), (72, 96, ["inner"])]
