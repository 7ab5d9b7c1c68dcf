"""The struct layer: bytes in, bytes out, memory shared, mistakes refused."""

from __future__ import annotations

import gc
import threading
from collections.abc import MutableSequence
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.uapi.linux import idxd
from pykernel.uapi.struct import ZERO, Bits, Struct, Union, anon_union, layout, s8, u8, u16, u32, u64


class point(Struct):
    x: u16 = 0
    y: u32 = 0


class shape(Struct):
    kind: u8 = 0
    neg: s8 = 0
    origin: point = ZERO
    corners: Annotated[MutableSequence[point], point, 3] = ZERO
    weights: Annotated[MutableSequence[int], u64, 2] = ZERO
    label: Annotated[bytes, u8, 4] = b""


class blob(Struct):
    n: u32 = 0
    data: Annotated[bytes, u8, ...] = b""


class points(Struct):
    n: u32 = 0
    at: Annotated[MutableSequence[point], point, ...] = ZERO


class word(Union):
    whole: u32 = 0
    half: Annotated[MutableSequence[int], u16, 2] = ZERO


IDXD = [
    idxd.dsa_hw_desc, idxd.iax_hw_desc, idxd.dsa_raw_desc, idxd.dsa_completion_record,
    idxd.dsa_raw_completion_record, idxd.iax_completion_record, idxd.iax_raw_completion_record,
]  # fmt: skip


@pytest.mark.parametrize("cls", [*IDXD, point, shape, word])
@given(data=st.data())
def test_bytes_to_struct_to_bytes_is_identity(cls: type[Struct], data: st.DataObject) -> None:
    """No bit is lost, padding included."""
    raw = data.draw(st.binary(min_size=cls.sizeof(), max_size=cls.sizeof()))
    assert bytes(cls.from_bytes(raw)) == raw
    assert bytes(cls.from_buffer(bytearray(raw))) == raw
    assert cls.from_bytes(raw) == cls.from_buffer(bytearray(raw))


@given(raw=st.binary(min_size=4, max_size=64))
def test_flexible_array_is_as_long_as_its_bytes(raw: bytes) -> None:
    """struct blob { __u32 n; __u8 data[]; }"""
    b = blob.from_bytes(raw)
    assert bytes(b) == raw
    assert (b.n, b.data) == (int.from_bytes(raw[:4], "little"), raw[4:])
    assert blob(n=b.n, data=raw[4:]) == b
    assert blob.sizeof() == 4


def test_flexible_array_of_structs_is_shared() -> None:
    buf = bytearray(4 + 2 * point.sizeof())
    p = points.from_buffer(buf)
    p.at[1].y = 0x04030201
    assert len(p.at) == 2
    assert buf[-4:] == b"\1\2\3\4"
    made = points(n=1, at=[point(x=1), point(x=2)])
    assert [q.x for q in made.at] == [1, 2]
    made.at = [point(y=9)]
    assert made.at == [point(y=9), point()]


NUMBERS = [(cls, f) for cls in IDXD for f in layout(cls) if f.rank == 0]


@given(row=st.sampled_from(NUMBERS), data=st.data())
def test_write_changes_only_the_field(row: tuple[type[Struct], Any], data: st.DataObject) -> None:
    """A field is bits [low, low + width) of the record read as one little-endian number; so says the naive model."""
    cls, f = row
    raw = data.draw(st.binary(min_size=cls.sizeof(), max_size=cls.sizeof()))
    shift, width = f.bits or (0, 8 * f.size)
    low = 8 * f.offset + shift
    value = data.draw(st.integers(0, (1 << width) - 1))
    buf = bytearray(raw)
    s = cls.from_buffer(buf)
    assert getattr(s, f.name) == int.from_bytes(raw, "little") >> low & (1 << width) - 1
    setattr(s, f.name, value)
    model = int.from_bytes(raw, "little") & ~((1 << width) - 1 << low) | value << low
    assert buf == model.to_bytes(len(raw), "little")


@given(row=st.sampled_from(NUMBERS))
def test_value_that_does_not_fit_is_refused(row: tuple[type[Struct], Any]) -> None:
    """OverflowError, and the record stays as it was."""
    cls, f = row
    s = cls()
    for wrong in (-1, 1 << (f.bits[1] if f.bits else 8 * f.size)):
        with pytest.raises(OverflowError):
            setattr(s, f.name, wrong)
        with pytest.raises(OverflowError):
            cls(**{f.name: wrong})
    assert bytes(s) == bytes(cls.sizeof())


def test_from_buffer_shares_both_ways_and_at_an_offset() -> None:
    buf = bytearray(40)
    p = point.from_buffer(buf, 32)
    p.y = 0x11223344
    assert buf[36:40] == bytes.fromhex("44332211")
    buf[32] = 7
    assert p.x == 7
    p.memory()[0:2] = b"\x09\x00"
    assert buf[32] == 9


def test_from_buffer_refuses_what_is_too_small_or_read_only() -> None:
    with pytest.raises(ValueError, match="needs 8 bytes, the buffer has 7"):
        point.from_buffer(bytearray(7))
    with pytest.raises(ValueError, match="needs 8 bytes, the buffer has 4"):
        point.from_buffer(bytearray(8), 4)
    with pytest.raises(BufferError):
        point.from_buffer(bytes(8))


def test_buffer_cannot_shrink_under_a_struct() -> None:
    buf = bytearray(8)
    p = point.from_buffer(buf)
    with pytest.raises(BufferError):
        buf.clear()
    assert p == point()


def test_short_bytes_leave_the_rest_zero_and_long_bytes_are_refused() -> None:
    """copy_from_user(&s, arg, minsz) into a cleared struct."""
    assert point.from_bytes(b"\1") == point(x=1)
    with pytest.raises(ValueError, match="length"):
        point.from_bytes(bytes(9))


def test_nested_structs_and_arrays_are_views() -> None:
    s = shape(origin=point(x=1, y=2), corners=[point(x=3)], weights=[5, 6], label=b"ab")
    s.origin.y = 20
    s.corners[2].x = 30
    s.corners[1] = point(x=8)
    s.weights[1] += 1
    assert s.origin == point(x=1, y=20)
    assert [c.x for c in s.corners] == [3, 8, 30]
    assert s.weights == [5, 7]
    assert s.label == b"ab\0\0"
    s.weights = [9]
    s.label = b"z"
    assert (s.weights, s.label) == ([9, 0], b"z\0\0\0")


def test_array_of_its_own_elements_survives_assignment() -> None:
    s = shape(corners=[point(x=1), point(x=2), point(x=3)])
    s.corners = s.corners[::-1]
    assert [c.x for c in s.corners] == [3, 2, 1]


def test_grid_is_rows_of_numbers() -> None:
    """__u16 at[2][3];"""

    class grid(Struct):
        at: Annotated[MutableSequence[MutableSequence[int]], u16, 2, 3] = ZERO

    g = grid(at=[[1, 2, 3], [4, 5, 6]])
    g.at[1][2] = 60
    g.at[0] = g.at[1]
    assert g.at == [[4, 5, 60], [4, 5, 60]]
    assert bytes(g) == bytes([4, 0, 5, 0, 60, 0] * 2)


def test_view_keeps_its_parent_alive() -> None:
    view, corners = shape(origin=point(x=77)).origin, shape(corners=[point(x=5)]).corners
    gc.collect()
    assert (view.x, corners[0].x) == (77, 5)


def test_array_has_a_fixed_length() -> None:
    weights = shape().weights
    for wrong in (lambda: weights.append(1), lambda: weights.pop(), lambda: weights.insert(0, 1)):
        with pytest.raises(TypeError, match="fixed length"):
            wrong()
    with pytest.raises(IndexError):
        weights[2] = 1
    with pytest.raises(IndexError, match="2 elements, 3 values"):
        weights[:] = [1, 2, 3]
    with pytest.raises(IndexError, match="holds 4 bytes, not 5"):
        shape().label = b"12345"


def test_union_members_share_storage() -> None:
    w = word(whole=0x22221111)
    assert w.half == [0x1111, 0x2222]
    w.half[0] = 0x3333
    assert w.whole == 0x22223333


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TypeError, match="point has no field 'z'"):
        point(z=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        point().z = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no field z"):
        point.offsetof("z")


def test_offsetofend_is_the_minsz_of_an_ioctl() -> None:
    assert (point.offsetof("y"), point.offsetofend("y"), point.offsetofend("x")) == (4, 8, 2)
    with pytest.raises(TypeError, match="bit-field"):
        idxd.dsa_hw_desc.offsetof("opcode")


def test_repr_is_hexadecimal_and_shows_every_byte_once() -> None:
    desc = idxd.dsa_hw_desc(opcode=3, dst_addr=0x2000, expected_res=0xAB)
    text = repr(desc)
    assert text.startswith("dsa_hw_desc(pasid=0x0, rsvd=0x0, priv=0x0, flags=0x0, opcode=0x3, completion_addr=0x0, ")
    assert "dst_addr=0x2000" in text
    assert text.endswith(f"op_specific=0xab{'00' * 23})")
    assert "crc_seed" not in text
    assert repr(shape(weights=[1, 255])).count("[0x1, 0xff]") == 1


def test_equality_is_by_type_and_bytes() -> None:
    assert point(x=1) == point(x=1) != point(x=2)
    assert idxd.dsa_raw_completion_record() != idxd.dsa_completion_record()
    with pytest.raises(TypeError):
        hash(point())


def test_subclass_may_add_methods_but_no_fields() -> None:
    """A driver may hang helpers on a uapi struct."""

    class named(point):
        def sum(self) -> int:
            return self.x + self.y

    assert (named(x=1, y=2).sum(), named.sizeof(), named(x=1) == point(x=1)) == (3, 8, True)
    with pytest.raises(TypeError, match="no base"):

        class longer(point):
            z: u8 = 0


def test_class_that_is_no_c_struct_is_refused() -> None:
    with pytest.raises(TypeError, match="give a a default"):

        class bare(Struct):
            a: u8

    with pytest.raises(TypeError, match="no field c to end"):

        class open_end(Struct):
            _u = anon_union(until="c")
            a: u8 = 0

    class plain(Struct):
        a: int = 0

    with pytest.raises(TypeError, match="is no C type"):
        plain()

    class unreadable(Struct):
        a: Annotated[u8, "four"] = 0

    with pytest.raises(TypeError, match="cannot read"):
        unreadable()

    class crossed(Struct):
        a: u8 = 0
        _u = anon_union(until="a")
        b: u8 = 0

    with pytest.raises(TypeError, match="has no end"):
        crossed()


def test_two_structs_of_one_name_do_not_meet() -> None:
    def make() -> type[Struct]:
        class twin(Struct):
            a: Annotated[u32, Bits(4)] = 0

        return twin

    one, two = make(), make()
    assert one() != two()
    assert one.sizeof() == two.sizeof() == 4


def test_first_use_in_many_threads_lays_out_once() -> None:
    class late(Struct):
        a: u32 = 0
        inner: point = ZERO

    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(late(a=1, inner=point(x=2)).inner.x)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == [2] * 8
