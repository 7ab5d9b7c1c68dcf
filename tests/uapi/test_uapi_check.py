"""The checker itself: it agrees with cc on awkward shapes, and it notices what is planted."""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from pykernel.uapi.check import CheckError, check, compare
from pykernel.uapi.history import Version
from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.struct import (
    ZERO,
    Bits,
    CType,
    Name,
    Struct,
    Union,
    anon_struct,
    anon_union,
    char,
    s8,
    s16,
    s32,
    u8,
    u16,
    u32,
    u64,
)  # fmt: skip

HEADER = """
#ifndef SHAPES_H
#define SHAPES_H
#include <linux/types.h>
#define SHAPE_ONE 1
#define SHAPE_MASK (~0x0fUL)
#define SHAPE_NEGATIVE (-2)
#define SHAPE_HIGH(x) (((x) >> 8) & 0xff)
enum color { COLOR_RED = 3, COLOR_BLUE };
struct natural { __u8 a; __u64 b; __s16 c; __u32 d; };
struct packed { __u8 a; __u64 b; __s16 c; __u32 d; } __attribute__((packed));
struct bits { __u8 a:3; __u16 b:9; __u32 c:20; __u64 d:33; __u8 e; __s32 f:7; __u32 g:32; };
struct packed_bits { __u8 a:3; __u16 b:9; __u32 c:20; __u8 d; __u32 e:5; __u32 f:27; } __attribute__((packed));
union either { __u64 whole; struct { __u32 low; __u8 high; }; __u8 raw[5]; };
struct outer {
    __u8 kind;
    struct natural in;
    union { __u64 x; struct { __u8 p; __u32 q; }; };
    union either un;
    __u16 grid[2][3];
    struct packed many[2];
    __u8 __pad;
} __attribute__((packed));
struct tail { __u32 n; __u16 data[]; };
struct inner_union { __u8 t; union { __u64 big; __u8 small; } u; };
#define SHAPE_NAME "shape-pci"
#define SHAPE_IOC _IOWR('S', 1, struct outer)
#endif
"""


class natural(Struct):
    a: u8 = 0
    b: u64 = 0
    c: s16 = 0
    d: u32 = 0


class packed(Struct, packed=True):
    a: u8 = 0
    b: u64 = 0
    c: s16 = 0
    d: u32 = 0


class bits(Struct):
    a: Annotated[u8, Bits(3)] = 0
    b: Annotated[u16, Bits(9)] = 0
    c: Annotated[u32, Bits(20)] = 0
    d: Annotated[u64, Bits(33)] = 0
    e: u8 = 0
    f: Annotated[s32, Bits(7)] = 0
    g: Annotated[u32, Bits(32)] = 0


class packed_bits(Struct, packed=True):
    a: Annotated[u8, Bits(3)] = 0
    b: Annotated[u16, Bits(9)] = 0
    c: Annotated[u32, Bits(20)] = 0
    d: u8 = 0
    e: Annotated[u32, Bits(5)] = 0
    f: Annotated[u32, Bits(27)] = 0


class either(Union):
    whole: u64 = 0
    _parts = anon_struct(until="high")
    low: u32 = 0
    high: u8 = 0
    raw: Annotated[bytes, u8, 5] = b""


class outer(Struct, packed=True):
    kind: u8 = 0
    in_: Annotated[natural, natural, Name("in")] = ZERO
    _x = anon_union(until="q")
    x: u64 = 0
    _pq = anon_struct(until="q")
    p: u8 = 0
    q: u32 = 0
    un: either = ZERO
    grid: Annotated[MutableSequence[MutableSequence[int]], u16, 2, 3] = ZERO
    many: Annotated[MutableSequence[packed], packed, 2] = ZERO
    pad: Annotated[u8, Name("__pad")] = 0


class tail(Struct):
    n: u32 = 0
    data: Annotated[MutableSequence[int], u16, ...] = ZERO


class inner_union_u(Union, ctype="__typeof__(((struct inner_union *)0)->u)"):
    big: u64 = 0
    small: u8 = 0


class inner_union(Struct):
    t: u8 = 0
    u: inner_union_u = ZERO


class color(IntEnum):
    COLOR_RED = 3
    COLOR_BLUE = 4


def SHAPE_HIGH(x: int) -> int:
    return x >> 8 & 0xFF


RIGHT: dict[str, Any] = {
    "HEADERS": ("shapes.h",),
    "SHAPE_ONE": 1,
    "SHAPE_MASK": 0xFFFFFFFFFFFFFFF0,
    "SHAPE_NEGATIVE": -2,
    "SHAPE_NAME": "shape-pci",
    "SHAPE_IOC": _IOWR(ord("S"), 1, outer),
    **{o.__name__: o for o in (natural, packed, bits, packed_bits, either, outer, tail, inner_union, inner_union_u)},
    "color": color,
    "SHAPE_HIGH": SHAPE_HIGH,
}


def module(**attributes: object) -> ModuleType:
    """A header module with these names; classes count as its own."""
    made = ModuleType(__name__)
    vars(made).update(attributes)
    return made


def of_kernel(where: Path, major: int, minor: int) -> None:
    """Make the headers those of Linux major.minor."""
    (where / "linux").mkdir(exist_ok=True)
    (where / "linux/version.h").write_text(f"#define LINUX_VERSION_CODE {major << 16 | minor << 8 | 7}\n")


@pytest.fixture
def shapes(tmp_path: Path, cc: str, kernel_headers: None) -> Path:
    (tmp_path / "shapes.h").write_text(HEADER)
    of_kernel(tmp_path, 6, 1)
    return tmp_path


def lambda_like(function: Any) -> Any:
    """A function as if it were defined in a header module."""
    function.__module__ = __name__
    return function


def found(where: Path, **changes: object) -> list[tuple[str, str]]:
    names = {k: v for k, v in {**RIGHT, **changes}.items() if v is not None}
    return [(d.subject, d.fact) for d in check(where, [module(**names)])]


def test_awkward_shapes_lie_as_cc_lays_them(shapes: Path) -> None:
    """Natural and packed, bit-fields across units, nested and anonymous unions, grids, a flexible array."""
    assert [str(d) for d in check(shapes, [module(**RIGHT)])] == []


def test_planted_wrong_offset_is_caught(shapes: Path) -> None:
    """Two fields of equal size change places: both offsets are told, and nothing else."""

    class tail(Struct):
        n: u32 = 0
        data: Annotated[MutableSequence[int], u16, ...] = ZERO

    class natural(Struct):
        a: u8 = 0
        c: s16 = 0
        b: u64 = 0
        d: u32 = 0

    assert found(shapes, tail=tail) == []
    wrong = found(shapes, natural=natural)
    assert ("natural.b", "offset") not in wrong  # 8 in both: padding hides the change
    assert ("natural.c", "offset") in wrong
    assert ("natural.d", "offset") in wrong


def test_planted_wrong_packing_is_caught(shapes: Path) -> None:
    class packed(Struct):
        a: u8 = 0
        b: u64 = 0
        c: s16 = 0
        d: u32 = 0

    assert ("packed", "sizeof") in found(shapes, packed=packed)


def test_planted_wrong_bit_is_caught(shapes: Path) -> None:
    """Widths that add up, but a boundary that moved."""

    class packed_bits(Struct, packed=True):
        a: Annotated[u8, Bits(4)] = 0
        b: Annotated[u16, Bits(8)] = 0
        c: Annotated[u32, Bits(20)] = 0
        d: u8 = 0
        e: Annotated[u32, Bits(5)] = 0
        f: Annotated[u32, Bits(27)] = 0

    assert found(shapes, packed_bits=packed_bits) == [("packed_bits.a", "all ones"), ("packed_bits.b", "all ones")]


def test_planted_wrong_sign_is_caught(shapes: Path) -> None:
    class natural(Struct):
        a: u8 = 0
        b: u64 = 0
        c: u16 = 0
        d: u32 = 0

    assert found(shapes, natural=natural) == [("natural.c", "signed")]


@pytest.mark.parametrize(
    ("theirs", "ours", "wrong"),
    [
        ("__volatile__ __u8 m", u8, "x.m: is no __u8 in the header"),
        ("__volatile__ __u8 m", Annotated[u8, CType("volatile __u8")], ""),
        ("__u8 m", Annotated[u8, CType("volatile __u8")], "x.m: is no volatile __u8 in the header"),
        ("struct in *m", u64, "x.m: is no __u64 in the header"),
        ("struct in *m", Annotated[u64, CType("struct in *")], ""),
        ("struct in m[1]", "in_", "x.m: is no struct in in the header"),
        ("char m[4]", Annotated[bytes, s8, 4], "x.m: is no __s8[4] in the header"),
        ("char m[4]", Annotated[bytes, char, 4], ""),
        ("unsigned long m", u64, ""),
    ],
)
def test_planted_wrong_type_is_caught(
    tmp_path: Path, cc: str, kernel_headers: None, theirs: str, ours: Any, wrong: str
) -> None:
    """Same size, same sign: but a qualifier, a pointer, an array of one, char. long and long long are one."""
    of_kernel(tmp_path, 6, 1)
    (tmp_path / "x.h").write_text(f"#include <linux/types.h>\nstruct in {{ __u32 a; }};\nstruct x {{ {theirs}; }};\n")

    class in_(Struct, ctype="struct in"):
        a: u32 = 0

    class x(Struct):
        m: u8 = 0

    x.__annotations__["m"] = in_ if ours == "in_" else ours
    stated = module(HEADERS=("x.h",), OMITTED={"in": "", "in.a": ""}, x=x)
    assert [d.sentence() for d in check(tmp_path, [stated])] == ([wrong] if wrong else [])


def test_planted_wrong_values_are_caught(shapes: Path) -> None:
    class color(IntEnum):
        COLOR_RED = 3
        COLOR_BLUE = 5

    assert found(shapes, SHAPE_ONE=2) == [("SHAPE_ONE", "value")]
    assert found(shapes, SHAPE_NAME="shape-pcie") == [("SHAPE_NAME", "text")]
    assert found(shapes, SHAPE_HIGH=lambda_like(lambda x: x >> 8 & 0x7F)) == [("SHAPE_HIGH", "(0xffffffffU)")]
    assert found(shapes, color=color) == [("COLOR_BLUE", "value")]
    assert found(shapes, SHAPE_IOC=_IOWR(ord("S"), 2, outer)) == [("SHAPE_IOC", "value")]


def test_name_that_the_header_does_not_have_is_told(shapes: Path) -> None:
    (difference,) = check(shapes, [module(**RIGHT, SHAPE_TWO=2)])
    assert str(difference) == f"{__name__}: SHAPE_TWO: not in the header"


def test_difference_reads_as_a_sentence(shapes: Path) -> None:
    (wrong,) = check(shapes, [module(**{**RIGHT, "SHAPE_ONE": 2})])
    assert str(wrong) == f"{__name__}: SHAPE_ONE: value is 0x1 in the header, 0x2 here"
    (forgotten,) = check(shapes, [module(**{k: v for k, v in RIGHT.items() if k != "SHAPE_ONE"})])
    assert str(forgotten) == f"{__name__}: SHAPE_ONE: only in the header"


def test_header_that_is_not_c_is_said(tmp_path: Path, cc: str, kernel_headers: None) -> None:
    (tmp_path / "bad.h").write_text("struct open {")
    of_kernel(tmp_path, 6, 1)
    with pytest.raises(CheckError, match=r"bad\.h does not compile"):
        check(tmp_path, [module(HEADERS=("bad.h",))])


def test_planted_wrong_alignment_is_caught(shapes: Path) -> None:
    """Sizes and offsets agree, but what contains it would differ."""
    (shapes / "aligned.h").write_text("struct two { unsigned int a, b; } __attribute__((aligned(8)));")

    class two(Struct):
        a: u32 = 0
        b: u32 = 0

    (difference,) = check(shapes, [module(HEADERS=("aligned.h",), two=two)])
    assert str(difference) == f"{__name__}: two: alignment is 0x8 in the header, 0x4 here"


def test_forgotten_member_of_a_nameless_union_is_told(shapes: Path) -> None:
    """struct inner_union { ...; union { __u64 big; __u8 small; } u; } has u.small, which changes no size."""

    class inner_union_u(Union, ctype="__typeof__(((struct inner_union *)0)->u)"):
        big: u64 = 0

    class inner_union(Struct):
        t: u8 = 0
        u: inner_union_u = ZERO

    inner_union.__annotations__["u"] = inner_union_u  # a local name, which the module does not know
    wrong = found(shapes, inner_union=inner_union, inner_union_u=inner_union_u)
    assert wrong == [("inner_union.u.small", "name")]


@pytest.mark.parametrize("name", ["SHAPE_ONE", "SHAPE_HIGH", "tail"])
def test_forgotten_name_is_told(shapes: Path, name: str) -> None:
    assert (name, "name") in found(shapes, **{name: None})


def test_forgotten_enumerator_and_field_are_told(shapes: Path) -> None:
    class natural(Struct):
        a: u8 = 0
        b: u64 = 0
        c: s16 = 0

    class color(IntEnum):
        COLOR_RED = 3

    assert ("natural.d", "name") in found(shapes, natural=natural)
    assert found(shapes, color=color) == [("COLOR_BLUE", "name")]


def test_omitted_names_are_not_missed(shapes: Path) -> None:
    assert found(shapes, SHAPE_ONE=None, OMITTED={"SHAPE_O*": "nobody needs it"}) == []


def test_newer_name_is_excused_only_by_an_older_header(shapes: Path) -> None:
    """A name of Linux 99.0 may be absent; the same name of 2.6 may not."""
    assert found(shapes, SHAPE_TWO=2, NEWER={"SHAPE_TWO": "99.0"}) == []
    assert found(shapes, SHAPE_TWO=2, NEWER={"SHAPE_TWO": "2.6"}) == [("SHAPE_TWO", "value")]


def test_newer_row_that_the_header_refutes_is_told(shapes: Path) -> None:
    """NEWER cannot be used to hide names, nor keep rows of names that no longer exist."""
    assert found(shapes, NEWER={"SHAPE_ONE": "99.0"}) == [("SHAPE_ONE", "NEWER")]
    assert found(shapes, NEWER={"SHAPE_GONE": "99.0"}) == [("SHAPE_GONE", "NEWER")]


def test_newer_name_that_an_older_header_has_otherwise_is_told(shapes: Path) -> None:
    """The name is there, and means something else: only CHANGED excuses that."""
    assert found(shapes, SHAPE_ONE=2, NEWER={"SHAPE_ONE": "99.0"}) == [("SHAPE_ONE", "value")]
    assert found(shapes, SHAPE_ONE=2, CHANGED={"SHAPE_ONE": "99.0"}) == []
    assert found(shapes, SHAPE_ONE=2, NEWER={"SHAPE_ONE": "99.0"}, BACKPORTED={"SHAPE_ONE"}) == [("SHAPE_ONE", "value")]


GREW = """
#include <linux/ioctl.h>
struct info { unsigned int argsz, flags; %s };
#define GET_INFO _IOR('G', 1, struct info)
"""


class info(Struct):
    argsz: u32 = 0
    flags: u32 = 0
    caps: u64 = 0


@pytest.mark.parametrize(("minor", "member"), [(4, ""), (5, "unsigned long caps;")])
def test_struct_that_grew_is_right_in_both_headers(
    tmp_path: Path, cc: str, kernel_headers: None, minor: int, member: str
) -> None:
    """Size of the struct and number of the ioctl are those of the kernel whose headers they are."""
    (tmp_path / "grew.h").write_text(GREW % member)
    of_kernel(tmp_path, 6, minor)
    grew = module(HEADERS=("grew.h",), info=info, GET_INFO=_IOR(ord("G"), 1, info), NEWER={"info.caps": "6.5"})

    assert [str(d) for d in check(tmp_path, [grew])] == []


def test_growth_that_the_older_header_does_not_bear_out_is_told(tmp_path: Path, cc: str, kernel_headers: None) -> None:
    """NEWER says that caps was appended, but 6.4 had reserved bytes there."""
    (tmp_path / "grew.h").write_text(GREW % "unsigned long reserved;")
    of_kernel(tmp_path, 6, 4)
    grew = module(HEADERS=("grew.h",), info=info, GET_INFO=_IOR(ord("G"), 1, info), NEWER={"info.caps": "6.5"})

    wrong = {(d.subject, d.fact) for d in check(tmp_path, [grew])}
    assert wrong == {("info", "sizeof"), ("info", "alignment"), ("GET_INFO", "value"), ("info.reserved", "name")}


def test_gone_name_is_excused_only_by_a_newer_header(shapes: Path) -> None:
    """The headers are those of 6.1: what was last in 6.0 may be absent, what was in 6.1 may not."""
    assert found(shapes, SHAPE_TWO=2, OLDER={"SHAPE_TWO": "6.0"}) == []
    assert found(shapes, SHAPE_TWO=2, OLDER={"SHAPE_TWO": "6.1"}) == [("SHAPE_TWO", "value")]


def test_older_row_that_the_header_refutes_is_told(shapes: Path) -> None:
    """A name that is said to be gone is still there; one that is said to be there, and has no value here, is not."""
    assert found(shapes, OLDER={"SHAPE_ONE": "6.0"}) == [("SHAPE_ONE", "OLDER")]
    assert found(shapes, OLDER={"SHAPE_GONE": "6.1"}) == [("SHAPE_GONE", "OLDER")]
    assert found(shapes, OLDER={"SHAPE_GONE": "6.0"}) == []
    assert found(shapes, SHAPE_ONE=None, OLDER={"SHAPE_ONE": "6.1"}) == []
    assert found(shapes, SHAPE_ONE=None, OLDER={"SHAPE_ONE": "6.0"}) == [("SHAPE_ONE", "OLDER")]


def test_name_that_came_and_went_is_known_in_between(shapes: Path) -> None:
    """SHAPE_ONE stands for a name of which no value is stated: of 6.0 and 6.1 only, the headers are those of 6.1."""
    ages = {"NEWER": {"SHAPE_ONE": "6.0"}, "OLDER": {"SHAPE_ONE": "6.1"}}
    assert found(shapes, SHAPE_ONE=None, **ages) == []
    of_kernel(shapes, 6, 2)
    assert found(shapes, SHAPE_ONE=None, **ages) == [("SHAPE_ONE", "OLDER")]
    of_kernel(shapes, 5, 19)
    (shapes / "shapes.h").write_text(HEADER.replace("#define SHAPE_ONE 1\n", ""))
    assert found(shapes, SHAPE_ONE=None, **ages) == []


def test_backported_name_may_be_in_an_older_header_and_may_not(shapes: Path) -> None:
    """6.1 stands for 6.1.192, which got what 6.5 brought; a backported name must still be right in 6.5."""
    ages = {"NEWER": {"SHAPE_ONE": "6.5"}, "BACKPORTED": frozenset({"SHAPE_ONE"})}
    assert found(shapes, **ages) == []
    (shapes / "shapes.h").write_text(HEADER.replace("#define SHAPE_ONE 1\n", ""))
    assert found(shapes, **ages) == []
    of_kernel(shapes, 6, 5)
    assert found(shapes, **ages) == [("SHAPE_ONE", "value")]


def test_names_of_kernels_that_the_module_does_not_know_are_no_difference(shapes: Path) -> None:
    """A module made from 6.0 cannot know what 6.1 brought; but what it states is checked."""
    made = {k: v for k, v in RIGHT.items() if k != "SHAPE_ONE"} | {"AS_OF": "6.0"}
    (report,) = compare(shapes, [module(**made)])
    assert (report.unknown, report.differences) == (("SHAPE_ONE",), ())
    assert found(shapes, SHAPE_ONE=2, AS_OF="6.0") == [("SHAPE_ONE", "value")]
    assert found(shapes, SHAPE_ONE=None, AS_OF="6.1") == [("SHAPE_ONE", "name")]


def test_header_that_does_not_compile_is_the_only_one_that_is_not_compared(shapes: Path) -> None:
    (shapes / "bad.h").write_text("#include <no/such.h>\n")
    bad, good = compare(shapes, [module(HEADERS=("bad.h",)), module(**RIGHT)])
    assert (bad.state, bad.why) == ("broken", "bad.h does not compile: no/such.h: No such file or directory")
    assert (good.state, good.differences) == ("compared", ())


def test_report_counts_facts_and_names_what_is_absent(shapes: Path) -> None:
    (report,) = compare(
        shapes,
        [
            module(
                HEADERS=("shapes.h",), OMITTED={"*": ""}, SHAPE_ONE=1, A=1, B=2, NEWER={"A": "6.2"}, OLDER={"B": "5.9"}
            )
        ],
    )
    assert (report.state, report.agree, report.differences) == ("compared", 1, ())
    assert (report.newer, report.gone) == ((("A", "6.2"),), (("B", "5.9"),))


def test_header_that_the_directory_lacks_is_not_taken_from_the_system(shapes: Path) -> None:
    """linux/vfio.h is installed, but was not asked about."""
    (report,) = compare(shapes, [module(HEADERS=("linux/vfio.h",))])
    assert (report.state, report.header, report.agree) == ("absent", "linux/vfio.h", 0)


def test_headers_of_a_kernel_tree_are_taken_as_they_are(shapes: Path) -> None:
    """include/uapi has annotations and includes that make headers_install takes away."""
    raw = "#include <linux/compiler_types.h>\n" + HEADER.replace("__u64 whole;", "__u64 __user whole;")
    (shapes / "shapes.h").write_text(raw)
    assert found(shapes) == []


def test_headers_without_a_version_need_to_be_told_it(shapes: Path) -> None:
    (shapes / "linux/version.h").unlink()
    newer = module(**RIGHT, SHAPE_TWO=2, NEWER={"SHAPE_TWO": "5.19"})
    with pytest.raises(CheckError, match=r"has no linux/version\.h: say of which kernel the headers are"):
        check(shapes, [newer])
    assert check(shapes, [newer], version=Version(5, 18)) == []
    assert [d.subject for d in check(shapes, [newer], version=Version(5, 19))] == ["SHAPE_TWO"]


def test_module_of_a_header_that_linux_never_had_is_proven_by_its_own(tmp_path: Path, shapes: Path) -> None:
    never = {k: v for k, v in RIGHT.items() if not callable(v) or isinstance(v, type)}
    (report,) = compare(shapes, [module(**{**never, "HEADERS": ()})])
    assert (report.state, report.differences) == ("never", ())
    assert report.agree > 100


def test_missing_header_and_missing_compiler_are_said(tmp_path: Path, cc: str, kernel_headers: None) -> None:
    of_kernel(tmp_path, 6, 1)
    with pytest.raises(CheckError, match=r"no header nowhere\.h"):
        check(tmp_path, [module(HEADERS=("nowhere.h",))])
    with pytest.raises(CheckError, match="no C compiler"):
        check(tmp_path, [module(HEADERS=("shapes.h",))], cc=str(tmp_path / "no-cc"))


def test_ioctl_numbers_are_those_of_real_headers(cc: str, kernel_headers: None) -> None:
    """Rows with a scalar, without an argument, and with a struct that only the driver knows of."""
    rows = module(
        HEADERS=("linux/vhost.h",),
        OMITTED={"*": "only some ioctls"},
        VHOST_GET_FEATURES=_IOR(0xAF, 0x00, "__u64"),
        VHOST_SET_FEATURES=_IOW(0xAF, 0x00, "__u64"),
        VHOST_SET_OWNER=_IO(0xAF, 0x01),
        VHOST_SET_LOG_FD=_IOW(0xAF, 0x07, "int"),
    )
    assert check(None, [rows]) == []
    vfio = module(
        HEADERS=("linux/vfio.h",),
        OMITTED={"*": "only some ioctls"},
        VFIO_GET_API_VERSION=_IO(ord(";"), 100),
        VFIO_DEVICE_GET_INFO=_IO(ord(";"), 107, natural, minsz="b"),
    )
    assert check(None, [vfio]) == []
