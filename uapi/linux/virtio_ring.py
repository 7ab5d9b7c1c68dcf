"""
``linux/virtio_ring.h``: split and packed virtqueues in guest memory, as in Linux 7.3.

Fields are little-endian in modern devices, in the guest's byte order in legacy ones: what is read here is the host's.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from functools import partial
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, CType, Struct, le16, le32, le64, u32, u64, virtio16, virtio32, virtio64

# vring_desc.flags
VRING_DESC_F_NEXT: Final = 1
VRING_DESC_F_WRITE: Final = 2
VRING_DESC_F_INDIRECT: Final = 4

# More bits of vring_packed_desc.flags: their numbers
VRING_PACKED_DESC_F_AVAIL: Final = 7
VRING_PACKED_DESC_F_USED: Final = 15

VRING_USED_F_NO_NOTIFY: Final = 1  # vring_used.flags
VRING_AVAIL_F_NO_INTERRUPT: Final = 1  # vring_avail.flags

# vring_packed_desc_event.flags, and the number of the highest bit of off_wrap
VRING_PACKED_EVENT_FLAG_ENABLE: Final = 0x0
VRING_PACKED_EVENT_FLAG_DISABLE: Final = 0x1
VRING_PACKED_EVENT_FLAG_DESC: Final = 0x2
VRING_PACKED_EVENT_F_WRAP_CTR: Final = 15

# Numbers of feature bits
VIRTIO_RING_F_INDIRECT_DESC: Final = 28
VIRTIO_RING_F_EVENT_IDX: Final = 29

VRING_AVAIL_ALIGN_SIZE: Final = 2
VRING_USED_ALIGN_SIZE: Final = 4
VRING_DESC_ALIGN_SIZE: Final = 16


class vring_desc(Struct):
    """``struct vring_desc``: a buffer, and the index of the next in its chain."""

    addr: virtio64 = 0
    len: virtio32 = 0
    flags: virtio16 = 0
    next: virtio16 = 0


class vring_avail(Struct):
    """``struct vring_avail``: heads of chains that the driver offers; after the ring comes used_event."""

    flags: virtio16 = 0
    idx: virtio16 = 0
    ring: Annotated[MutableSequence[int], virtio16, ...] = ZERO


class vring_used_elem(Struct):
    """``struct vring_used_elem``: a chain that the device is done with, and how many bytes it wrote."""

    id: virtio32 = 0
    len: virtio32 = 0


class vring_used(Struct):
    """``struct vring_used``: chains that the device gives back; after the ring comes avail_event."""

    flags: virtio16 = 0
    idx: virtio16 = 0
    ring: Annotated[MutableSequence[vring_used_elem], vring_used_elem, CType("vring_used_elem_t", aligned=4), ...] = (
        ZERO
    )


class vring(Struct):
    """``struct vring``: how large a split ring is, and the addresses of its parts in the process that uses it."""

    num: u32 = 0
    desc: Annotated[u64, CType("vring_desc_t *")] = 0
    avail: Annotated[u64, CType("vring_avail_t *")] = 0
    used: Annotated[u64, CType("vring_used_t *")] = 0

    def init(self, num: int, p: int, align: int) -> None:
        """C: ``vring_init(vr, num, p, align)``: the parts of a legacy ring of *num* entries at *p*, in one piece."""
        self.num, self.desc = num, p
        self.avail = p + num * vring_desc.sizeof()
        self.used = self.used_event() + 2 + align - 1 & ~(align - 1)

    def used_event(self) -> int:
        """C: ``&vring_used_event(vr)``, the address of the word at which the driver wants an interrupt."""
        return self.avail + vring_avail.sizeof() + 2 * self.num

    def avail_event(self) -> int:
        """C: ``&vring_avail_event(vr)``, the address of the word at which the device wants a kick."""
        return self.used + vring_used.sizeof() + vring_used_elem.sizeof() * self.num


vring_init: Final = partial(vring.init)  # C's name for it; not a function, it returns nothing that can be compared


def vring_size(num: int, align: int) -> int:
    """C: ``vring_size(num, align)``: bytes of a legacy ring; the end is not rounded up."""
    head = (vring_desc.sizeof() * num + 2 * (3 + num & 0xFFFFFFFF) + align - 1) & ~(align - 1)
    return head + 2 * 3 + vring_used_elem.sizeof() * num & 0xFFFFFFFF


def vring_need_event(event_idx: int, new_idx: int, old: int) -> int:
    """C: ``vring_need_event(event_idx, new_idx, old)``: did the step from *old* to *new_idx* go past *event_idx*?"""
    return int(new_idx - event_idx - 1 & 0xFFFF < new_idx - old & 0xFFFF)


class vring_packed_desc_event(Struct):
    """``struct vring_packed_desc_event``: when one side of a packed ring wants to be told."""

    off_wrap: le16 = 0
    flags: le16 = 0


class vring_packed_desc(Struct):
    """``struct vring_packed_desc``: a buffer of a packed ring, offered and given back in the same place."""

    addr: le64 = 0
    len: le32 = 0
    id: le16 = 0
    flags: le16 = 0


NEWER: Final = {
    "VRING_PACKED_DESC_F_AVAIL": "5.0",
    "VRING_PACKED_DESC_F_USED": "5.0",
    "VRING_PACKED_EVENT_FLAG_ENABLE": "5.0",
    "VRING_PACKED_EVENT_FLAG_DISABLE": "5.0",
    "VRING_PACKED_EVENT_FLAG_DESC": "5.0",
    "VRING_PACKED_EVENT_F_WRAP_CTR": "5.0",
    "vring_packed_desc_event": "5.0",
    "vring_packed_desc": "5.0",
}

# In C the parts of a ring are pointers, and the words of the events lvalues
IN_C: Final = {
    "vring_used_elem_t": (
        "typedef struct vring_used_elem __attribute__((aligned(VRING_USED_ALIGN_SIZE))) vring_used_elem_t;"
    ),
    "vring_desc_t": "typedef struct vring_desc __attribute__((aligned(VRING_DESC_ALIGN_SIZE))) vring_desc_t;",
    "vring_avail_t": "typedef struct vring_avail __attribute__((aligned(VRING_AVAIL_ALIGN_SIZE))) vring_avail_t;",
    "vring_used_t": "typedef struct vring_used __attribute__((aligned(VRING_USED_ALIGN_SIZE))) vring_used_t;",
    "vring_used_event": "#define vring_used_event(vr) ((vr)->avail->ring[(vr)->num])",
    "vring_avail_event": "#define vring_avail_event(vr) (*(__virtio16 *)&(vr)->used->ring[(vr)->num])",
    "vring_init": """\
static __inline__ void vring_init(struct vring *vr, unsigned int num, void *p, unsigned long align)
{
\tunsigned long avail = (unsigned long)p + num * sizeof(struct vring_desc);
\tunsigned long end = avail + sizeof(struct vring_avail) + (num + 1UL) * sizeof(__virtio16);

\tvr->num = num;
\tvr->desc = (vring_desc_t *)p;
\tvr->avail = (vring_avail_t *)avail;
\tvr->used = (vring_used_t *)((end + align - 1) & ~(align - 1));
}""",
    "vring_size": """\
static __inline__ unsigned int vring_size(unsigned int num, unsigned long align)
{
\tunsigned long head = num * sizeof(struct vring_desc) + (3 + num) * sizeof(__virtio16);
\tunsigned long used = 3 * sizeof(__virtio16) + num * sizeof(struct vring_used_elem);

\treturn (unsigned int)(((head + align - 1) & ~(align - 1)) + used);
}""",
    "vring_need_event": """\
static __inline__ int vring_need_event(__u16 event_idx, __u16 new_idx, __u16 old)
{
\treturn (__u16)(new_idx - event_idx - 1) < (__u16)(new_idx - old);
}""",
}
