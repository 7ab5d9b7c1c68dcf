"""Interrupt message storage: messages beyond the MSI-X table, 16 bytes each (address, data, control)."""

from __future__ import annotations

from pykernel.lib.regmap import Reg, bit, bits

__all__ = ["IMS_ENTRY_SIZE", "Ims", "ImsControl"]

IMS_ENTRY_SIZE = 16


class ImsControl(Reg):
    """The last doubleword of an entry: masked or not, and whose descriptors may name it."""

    mask, pending, ignore, pasid_en, pasid = bit(0), bit(1, "ro"), bit(2), bit(3), bits(31, 12)


class Ims:
    """*size* entries; every one begins masked."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries = bytearray(IMS_ENTRY_SIZE * size)
        self.reset()

    def reset(self) -> None:
        """Mask every entry and forget its message."""
        self.entries[:] = (bytes(12) + b"\1\0\0\0") * self.size

    def read(self, off: int, size: int) -> int:
        """A load."""
        return int.from_bytes(self.entries[off : off + size], "little")

    def write(self, off: int, size: int, value: int) -> int | None:
        """A store; the index of an entry that may send what was pending, if it was unmasked."""
        index = off // IMS_ENTRY_SIZE
        pending = self.perm(index).pending
        self.entries[off : off + size] = value.to_bytes(size, "little")
        control = self.perm(index)
        control.pending = pending
        self._put(index, control)
        return index if pending and not control.mask else None

    def perm(self, index: int) -> ImsControl:
        """The control word of an entry."""
        at = IMS_ENTRY_SIZE * index + 12
        return ImsControl(int.from_bytes(self.entries[at : at + 4], "little"))

    def _put(self, index: int, control: ImsControl) -> None:
        at = IMS_ENTRY_SIZE * index + 12
        self.entries[at : at + 4] = control.bits.to_bytes(4, "little")

    def take(self, index: int) -> tuple[int, int] | None:
        """The message of an entry, to be sent now; None: it is masked, and pending from now on."""
        control = self.perm(index)
        control.pending = control.mask
        self._put(index, control)
        if control.mask:
            return None
        at = IMS_ENTRY_SIZE * index
        entry = self.entries[at : at + 12]
        return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")
