"""What linux/virtio_ring.h computes: the same as the inline functions of the header, compiled by cc."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.uapi.linux.virtio_ring import (
    vring,
    vring_avail,
    vring_init,
    vring_need_event,
    vring_packed_desc,
    vring_packed_desc_event,
    vring_size,
    vring_used,
    vring_used_elem,
)

SOURCE = """
#include <linux/virtio_ring.h>
unsigned size(unsigned num, unsigned long align) { return vring_size(num, align); }
int need_event(__u16 event, __u16 now, __u16 old) { return vring_need_event(event, now, old); }
void init(unsigned num, unsigned long p, unsigned long align, unsigned long out[6])
{
    struct vring vr;
    vring_init(&vr, num, (void *)p, align);
    out[0] = vr.num;
    out[1] = (unsigned long)vr.desc;
    out[2] = (unsigned long)vr.avail;
    out[3] = (unsigned long)vr.used;
    out[4] = (unsigned long)&vring_used_event(&vr);
    out[5] = (unsigned long)&vring_avail_event(&vr);
}
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, cc: str, kernel_headers: None) -> ctypes.CDLL:
    """The header's functions."""
    where: Path = tmp_path_factory.mktemp("virtio_ring")
    (where / "ring.c").write_text(SOURCE)
    subprocess.run([cc, "-shared", "-fPIC", "-o", str(where / "ring.so"), str(where / "ring.c")], check=True)
    lib = ctypes.CDLL(str(where / "ring.so"))
    lib.size.argtypes, lib.size.restype = [ctypes.c_uint, ctypes.c_ulong], ctypes.c_uint
    lib.need_event.argtypes = [ctypes.c_uint16] * 3
    lib.init.argtypes = [ctypes.c_uint, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong * 6]
    return lib


ALIGN = st.integers(0, 16).map(lambda n: 1 << n)
U16 = st.integers(0, 0xFFFF)


@given(num=st.one_of(st.integers(0, 0x8000), st.integers(0, 0xFFFFFFFF)), align=ALIGN)
def test_size_is_the_headers(real: ctypes.CDLL, num: int, align: int) -> None:
    assert vring_size(num, align) == real.size(num, align)


@given(event=U16, new=U16, old=U16)
def test_need_event_is_the_headers(real: ctypes.CDLL, event: int, new: int, old: int) -> None:
    assert vring_need_event(event, new, old) == real.need_event(event, new, old)


@given(num=st.integers(0, 0x8000), p=st.integers(0, 1 << 47), align=ALIGN)
def test_init_and_event_words_are_the_headers(real: ctypes.CDLL, num: int, p: int, align: int) -> None:
    vr, out = vring(), (ctypes.c_ulong * 6)()
    vring_init(vr, num, p, align)
    real.init(num, p, align, out)
    assert [vr.num, vr.desc, vr.avail, vr.used, vr.used_event(), vr.avail_event()] == list(out)


@pytest.mark.parametrize(
    ("num", "avail", "used", "total"), [(256, 4096, 8192, 10246), (128, 2048, 4096, 5126), (1024, 16384, 20480, 28678)]
)
def test_legacy_rings_of_common_sizes(num: int, avail: int, used: int, total: int) -> None:
    """Offsets and bytes that the virtio specification's formula gives, with pages of 4096."""
    vr = vring()
    vring_init(vr, num, 0, 4096)
    assert (vr.avail, vr.used, vring_size(num, 4096)) == (avail, used, total)


def test_event_wanted_at_the_step_just_made_and_not_before_or_after() -> None:
    """Indexes run from 0xffff to 0."""
    assert vring_need_event(0xFFFF, 0, 0xFFFF) == 1
    assert vring_need_event(0, 0, 0xFFFF) == 0
    assert vring_need_event(0xFFFE, 0, 0xFFFF) == 0


def test_rings_are_views_of_guest_memory() -> None:
    """What is written through the view is in the memory; the ring is as long as the memory behind it."""
    memory = bytearray(4 + 2 * 4)
    avail = vring_avail.from_buffer(memory)
    avail.ring[3] = 0x1234
    avail.idx = 4
    assert memory == b"\0\0\4\0\0\0\0\0\0\0\x34\x12"
    used = vring_used.from_buffer(bytearray(4 + 8 * 2))
    used.ring[1] = vring_used_elem(id=7, len=512)
    assert (len(used.ring), used.ring[1].len) == (2, 512)


def test_packed_ring_sizes() -> None:
    """Virtio 1.1: descriptors of 16 bytes, event suppression of 4."""
    assert (vring_packed_desc.sizeof(), vring_packed_desc_event.sizeof()) == (16, 4)
