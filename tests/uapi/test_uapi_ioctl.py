"""ioctl numbers: made, taken apart, and typed rows."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.uapi.ioctl import _IO, _IOC, _IOR, _IOW, _IOWR, decode, ioctls
from pykernel.uapi.struct import Struct, u32, u64


class info(Struct):
    argsz: u32 = 0
    flags: u32 = 0
    later: u64 = 0


@given(st.integers(0, 3), st.integers(0, 255), st.integers(0, 255), st.integers(0, (1 << 14) - 1))
def test_decode_is_the_inverse_of_ioc(direction: int, type: int, nr: int, size: int) -> None:
    """Every number that _IOC makes, and the kernel looks at 32 bits only."""
    number = _IOC(direction, type, nr, size)
    assert decode(number) == decode(number | 1 << 32) == (direction, type, nr, size)


@pytest.mark.parametrize("parts", [(4, 0, 0, 0), (0, 256, 0, 0), (0, 0, 256, 0), (0, 0, 0, 1 << 14), (0, 0, -1, 0)])
def test_parts_that_do_not_fit_are_refused(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _IOC(*parts)


# Numbers that every strace prints: asm-generic/ioctls.h, linux/input.h, linux/vfio.h, linux/vhost.h
@pytest.mark.parametrize(
    ("row", "number", "text"),
    [
        (_IOR(ord("T"), 0x30, "unsigned int"), 0x80045430, "_IOR('T', 0x30, 4)"),  # TIOCGPTN
        (_IOR(ord("E"), 0x01, "int"), 0x80044501, "_IOR('E', 0x1, 4)"),  # EVIOCGVERSION
        (_IO(ord(";"), 107, info), 0x3B6B, "_IO(';', 0x6b)"),  # VFIO_DEVICE_GET_INFO
        (_IOW(0xAF, 0x00, "__u64"), 0x4008AF00, "_IOW(0xaf, 0x0, 8)"),  # VHOST_SET_FEATURES
        (_IOWR(0xAF, 0x12, info), 0xC010AF12, "_IOWR(0xaf, 0x12, 16)"),  # VHOST_GET_VRING_BASE has 8 bytes
    ],
)
def test_rows_have_the_number_that_user_space_passes(row: object, number: int, text: str) -> None:
    assert int(row) == number  # type: ignore[call-overload]
    assert str(decode(number)) == text
    assert f"{number:#x} {text}" in repr(row)


def test_minsz_ends_at_the_named_field_and_is_the_whole_size_without_one() -> None:
    """C: minsz = offsetofend(struct info, flags)"""
    assert _IO(1, 1, info, minsz="flags").minsz == 8
    assert _IO(1, 1, info).minsz == _IO(1, 1, info).size == 16
    assert _IOR(1, 1, "__u16").minsz == 2
    assert _IO(1, 1).minsz == 0
    assert _IO(1, 1, info).struct is info


def test_ioctls_of_a_module_by_number() -> None:
    module = ModuleType("header")
    module.GET = _IO(ord("x"), 1)  # type: ignore[attr-defined]
    module.SET = _IOW(ord("x"), 2, "int")  # type: ignore[attr-defined]
    module.OTHER = 3  # type: ignore[attr-defined]
    assert ioctls(module) == {0x7801: "GET", 0x40047802: "SET"}
