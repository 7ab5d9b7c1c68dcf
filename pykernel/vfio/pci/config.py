"""
Configuration space as a user sees it (drivers/vfio/pci/vfio_pci_config.c).

``vconfig`` is the emulated space, ``map`` says for each byte which capability it belongs to; what a capability's bits
are is in :mod:`pykernel.vfio.pci.perms`.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.pci.power import PCI_D3HOT
from pykernel.pci.resource import (
    IORESOURCE_IO,
    IORESOURCE_MEM_64,
    IORESOURCE_PREFETCH,
    PCI_ROM_RESOURCE,
)
from pykernel.uapi.linux import pci_regs as r
from pykernel.vfio.pci.emulate import af_write, exp_write, msi_read, msi_write, pm_write, vpd_write
from pykernel.vfio.pci.lengths import cap_length, ext_cap_length
from pykernel.vfio.pci.perms import (
    CAP_LENGTHS,
    DIRECT_RO,
    EXT_CAP_LENGTHS,
    UNASSIGNED,
    VARIABLE,
    Perm,
    basic_perm,
    default_read,
    default_write,
    msi_perm,
    perms_of,
)

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["VirtConfig"]

PCI_CAP_ID_BASIC, PCI_CAP_ID_INVALID = 0, 0xFF
KNOWN_BOGUS_VF_PINS = ((0x8086, 0x270C),)
HEADER, CAP_SIZE, CONVENTIONAL = r.PCI_STD_HEADER_SIZEOF, r.PCI_CAP_SIZEOF, r.PCI_CFG_SPACE_SIZE
BAR_OFFSETS = range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4, 4)
DECODES = r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_IO


def is_bar(off: int) -> bool:
    """Whether *off* is in a BAR or the ROM's."""
    return off in range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4) or off in range(
        r.PCI_ROM_ADDRESS, r.PCI_ROM_ADDRESS + 4
    )


class VirtConfig:
    """``vdev->vconfig`` and ``vdev->pci_config_map``, made when the device is opened."""

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        """vfio_config_init()."""
        self.vdev = vdev
        self.pdev = pdev = vdev.pdev
        self.size = pdev.cfg_size
        self.vconfig = bytearray(self.size)
        self.map = bytearray(HEADER) + bytes([PCI_CAP_ID_INVALID]) * (self.size - HEADER)
        self.bardirty = True
        self.extended_caps = False
        self.dvsec = vdev.kernel.profile.vfio_pci_dvsec
        self.caps, self.ext_caps = perms_of(pm_write, vpd_write, exp_write, af_write, dvsec=self.dvsec)
        self.caps[PCI_CAP_ID_BASIC] = basic_perm(_basic_read, _basic_write)
        self._fill(0, HEADER)
        self.rbar = [self.get(off, 4) for off in (*BAR_OFFSETS, r.PCI_ROM_ADDRESS)]
        if pdev.is_virtfn:
            self._fix_vf()
        if vdev.nointx:
            self.put(r.PCI_INTERRUPT_PIN, 1, 0)
        self._init_caps()
        self._init_ext_caps()
        self._starts, self._rooms = self._lay_out()

    # ---- bytes

    def get(self, pos: int, count: int) -> int:
        """Of the emulated space."""
        return int.from_bytes(self.vconfig[pos : pos + count], "little")

    def put(self, pos: int, count: int, value: int) -> None:
        """Change the emulated space."""
        self.vconfig[pos : pos + count] = value.to_bytes(count, "little")

    def hw_read(self, pos: int, count: int) -> int:
        """C: ``vfio_user_config_read()``."""
        return self.pdev.function.config_read(pos, count)

    def hw_write(self, pos: int, count: int, value: int) -> None:
        """C: ``vfio_user_config_write()``."""
        write = {1: self.pdev.write_config_byte, 2: self.pdev.write_config_word, 4: self.pdev.write_config_dword}
        write[count](pos, value)

    def _fill(self, off: int, size: int) -> None:
        # drivers/vfio/pci/vfio_pci_config.c:vfio_fill_vconfig_bytes(): in the largest pieces
        end = off + size
        while off < end:
            step = 4 if end - off >= 4 and off % 4 == 0 else 2 if end - off >= 2 and off % 2 == 0 else 1
            self.put(off, step, self.hw_read(off, step))
            off += step

    @property
    def command(self) -> int:
        """The emulated COMMAND register."""
        return self.get(r.PCI_COMMAND, 2)

    def memory_enabled(self) -> bool:
        """Whether BARs can be reached. C: ``bool __vfio_pci_memory_enabled(struct vfio_pci_core_device *)``."""
        pdev = self.pdev
        return pdev.current_state < PCI_D3HOT and (pdev.is_virtfn or bool(self.vconfig[4] & r.PCI_COMMAND_MEMORY))

    # ---- made

    def _fix_vf(self) -> None:
        pdev = self.pdev
        self.put(r.PCI_VENDOR_ID, 2, pdev.vendor)
        self.put(r.PCI_DEVICE_ID, 2, pdev.device)
        pin = self.get(r.PCI_INTERRUPT_PIN, 1)
        if pin and (pdev.vendor, pdev.device) not in KNOWN_BOGUS_VF_PINS:
            pdev.warn(f"Hardware bug: VF reports bogus INTx pin {pin}")
        self.put(r.PCI_INTERRUPT_PIN, 1, 0)
        self.put(r.PCI_COMMAND, 2, self.command | r.PCI_COMMAND_MEMORY)

    def _length(self, cap: int, pos: int) -> int:
        length = CAP_LENGTHS.get(cap, 0)
        if length != VARIABLE:
            return length
        if cap == r.PCI_CAP_ID_MSI and cap not in self.caps:
            flags = self.pdev.read_config_word(pos + r.PCI_MSI_FLAGS)
            self.caps[cap] = msi_perm(msi_read, msi_write, cap_length(self.pdev, cap, pos), flags)
        if cap in (r.PCI_CAP_ID_EXP, r.PCI_CAP_ID_PCIX) and self.size > CONVENTIONAL:
            self.extended_caps = self.pdev.read_config_dword(CONVENTIONAL) != 0
        return cap_length(self.pdev, cap, pos)

    def _hide(self, text: str) -> None:
        if self.vdev.kernel.profile.vfio_pci_tells_hidden:
            self.pdev.info(text)
        else:
            self.pdev.dbg(text)

    def _take(self, kind: str, cap: int, pos: int, length: int) -> None:
        for at in range(pos, min(pos + length, self.size)):
            if self.map[at] != PCI_CAP_ID_INVALID:
                was = f"was {kind} {self.map[at]:#x} now {kind} {cap:#x}"
                self.pdev.warn(f"vfio_{'e' * (kind == 'ecap')}cap_init: PCI config conflict @{at:#x}, {was}")
            self.map[at] = cap & 0xFF
        self._fill(pos, min(length, self.size - pos))

    def _init_caps(self) -> None:
        """vfio_cap_init()."""
        pdev = self.pdev
        if not pdev.read_config_word(r.PCI_STATUS) & r.PCI_STATUS_CAP_LIST:
            return
        pos, link, found = pdev.read_config_byte(r.PCI_CAPABILITY_LIST), r.PCI_CAPABILITY_LIST, 0
        left = (CONVENTIONAL - HEADER) // CAP_SIZE
        while pos and left:
            left -= 1
            cap, following = pdev.read_config_byte(pos), pdev.read_config_byte(pos + r.PCI_CAP_LIST_NEXT)
            length = self._length(cap, pos) if cap <= r.PCI_CAP_ID_MAX else 0
            if not length:
                self._hide(f"vfio_cap_init: hiding cap {cap:#x}@{pos:#x}")
                self.put(link, 1, following)
                pos = following
                continue
            self._take("cap", cap, pos, length)
            if cap == r.PCI_CAP_ID_PM:
                self._no_pme(pos)
            link, pos, found = pos + r.PCI_CAP_LIST_NEXT, following, found + 1
        if not found:
            self.put(r.PCI_STATUS, 2, self.get(r.PCI_STATUS, 2) & ~r.PCI_STATUS_CAP_LIST)

    def _no_pme(self, pos: int) -> None:
        # drivers/vfio/pci/vfio_pci_config.c:vfio_update_pm_vconfig_bytes()
        pme = r.PCI_PM_CTRL_PME_ENABLE | r.PCI_PM_CTRL_PME_STATUS
        for off, bits in ((r.PCI_PM_PMC, r.PCI_PM_CAP_PME_MASK), (r.PCI_PM_CTRL, pme)):
            self.put(pos + off, 2, self.get(pos + off, 2) & ~bits)

    def _ext_length(self, cap: int, pos: int) -> int:
        if cap == r.PCI_EXT_CAP_ID_DVSEC and not self.dvsec:
            return 0
        length = EXT_CAP_LENGTHS.get(cap, 0)
        return ext_cap_length(self.pdev, cap, pos) if length == VARIABLE else length

    def _init_ext_caps(self) -> None:
        """vfio_ecap_init()."""
        if not self.extended_caps:
            return
        pos, link, found = CONVENTIONAL, 0, 0
        left = (self.size - CONVENTIONAL) // CAP_SIZE
        while left and pos >= CONVENTIONAL:
            left -= 1
            header = self.pdev.read_config_dword(pos)
            cap, following = header & 0xFFFF, header >> 20 & 0xFFC
            length = self._ext_length(cap, pos)
            if not length:
                self._hide(f"vfio_ecap_init: hiding ecap {cap:#x}@{pos:#x}")
                if link:
                    self.put(link, 4, self.get(link, 4) & 0xFFFFF | following << 20)
                    pos = following
                    continue
            self._take("ecap", cap, pos, length or CAP_SIZE)
            if length:
                found += 1
            else:  # it heads the list, so its place stays
                self.put(pos, 4, self.get(pos, 4) & 0xFFC << 20)
            link, pos = pos, following
        if not found:
            self.put(CONVENTIONAL, 4, 0)

    # ---- BARs

    def bar_fixup(self) -> None:
        """Address bits below the size do not exist. C: ``void vfio_bar_fixup(struct vfio_pci_core_device *)``."""
        if not self.bardirty:
            return
        bar = 0
        while bar < 6:
            off, resource = r.PCI_BASE_ADDRESS_0 + 4 * bar, self.pdev.resources.get(bar)
            bar += 1
            if resource is None:
                self.put(off, 4, 0)
                continue
            mask = ~(resource.size - 1) & (1 << 64) - 1
            self.put(off, 4, self.get(off, 4) & mask & 0xFFFFFFFF | self._bar_flags(resource.flags))
            if resource.flags & IORESOURCE_MEM_64 and not resource.flags & IORESOURCE_IO:
                self.put(off + 4, 4, self.get(off + 4, 4) & mask >> 32)
                bar += 1
        rom = self.pdev.resources.get(PCI_ROM_RESOURCE)
        mask = 0 if rom is None else ~(rom.size - 1) & 0xFFFFFFFF | r.PCI_ROM_ADDRESS_ENABLE
        self.put(r.PCI_ROM_ADDRESS, 4, self.get(r.PCI_ROM_ADDRESS, 4) & mask)
        self.bardirty = False

    @staticmethod
    def _bar_flags(flags: int) -> int:
        # drivers/vfio/pci/vfio_pci_config.c:vfio_generate_bar_flags()
        if flags & IORESOURCE_IO:
            return r.PCI_BASE_ADDRESS_SPACE_IO
        wide = r.PCI_BASE_ADDRESS_MEM_TYPE_64 if flags & IORESOURCE_MEM_64 else 0
        return wide | (r.PCI_BASE_ADDRESS_MEM_PREFETCH if flags & IORESOURCE_PREFETCH else 0)

    def need_bar_restore(self) -> bool:
        """Whether a BAR of the hardware is not what it was. C: ``bool vfio_need_bar_restore()``."""
        return any(was and was != self.hw_read(off, 4) for off, was in zip(BAR_OFFSETS, self.rbar, strict=False))

    def bar_restore(self) -> None:
        """The device was reset behind our back. C: ``void vfio_bar_restore(struct vfio_pci_core_device *)``."""
        pdev = self.pdev
        if pdev.is_virtfn:
            return
        pdev.info("vfio_bar_restore: reset recovery - restoring BARs")
        for off, value in zip((*BAR_OFFSETS, r.PCI_ROM_ADDRESS), self.rbar, strict=True):
            self.hw_write(off, 4, value)
        if self.vdev.nointx:
            self.hw_write(r.PCI_COMMAND, 2, self.hw_read(r.PCI_COMMAND, 2) | r.PCI_COMMAND_INTX_DISABLE)

    # ---- access

    def _lay_out(self) -> tuple[list[int], list[int]]:
        """For each byte: where its capability begins, and how many bytes of it its word has from there on."""
        starts, rooms = list(range(self.size)), [1] * self.size
        for pos in range(1, self.size):
            same = self.map[pos] == self.map[pos - 1]
            if same and pos not in (HEADER, CONVENTIONAL):
                starts[pos] = starts[pos - 1]
        for pos in reversed(range(self.size - 1)):
            if (pos + 1) % 4 and self.map[pos] == self.map[pos + 1]:
                rooms[pos] = rooms[pos + 1] + 1
        return starts, rooms

    def find_cap_start(self, pos: int) -> int:
        """C: ``int vfio_find_cap_start(struct vfio_pci_core_device *, int)``."""
        return self._starts[pos]

    def _piece(self, pos: int, count: int) -> int:
        # drivers/vfio/pci/vfio_pci_config.c:vfio_pci_cap_remaining_dword(): a part of one word and of one capability
        count = min(count, self._rooms[pos])
        return 4 if count >= 4 and pos % 4 == 0 else 2 if count >= 2 and pos % 2 == 0 else 1

    def _perm(self, pos: int) -> tuple[Perm, int]:
        """What rules the byte at *pos*, and its offset in the capability."""
        cap = self.map[pos]
        if cap == PCI_CAP_ID_INVALID:
            return UNASSIGNED, 0
        if pos >= CONVENTIONAL:
            return self.ext_caps.get(cap, DIRECT_RO), pos - self.find_cap_start(pos)
        start = 0 if cap == PCI_CAP_ID_BASIC else self.find_cap_start(pos)
        return self.caps.get(cap, DIRECT_RO), pos - start

    def _check(self, pos: int, count: int) -> None:
        if pos >= self.size or pos + count > self.size:
            raise err(EFAULT, f"{count} bytes at {pos:#x} of a space of {self.size}")

    def read(self, pos: int, count: int) -> bytes:
        """C: ``ssize_t vfio_pci_config_rw(...)``. Raises EFAULT: beyond the end."""
        out = bytearray()
        while count:
            self._check(pos, count)
            step = self._piece(pos, count)
            perm, offset = self._perm(pos)
            out += perm.read(self, pos, step, perm, offset).to_bytes(step, "little")
            pos, count = pos + step, count - step
        return bytes(out)

    def write(self, pos: int, data: bytes) -> int:
        """C: ``ssize_t vfio_pci_config_rw(...)``. Raises EFAULT: beyond the end."""
        done = 0
        while done < len(data):
            self._check(pos, len(data) - done)
            step = self._piece(pos, len(data) - done)
            perm, offset = self._perm(pos)
            if perm.write is not None:
                perm.write(self, pos, step, perm, offset, int.from_bytes(data[done : done + step], "little"))
            pos, done = pos + step, done + step
        return done


def _basic_read(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int) -> int:
    # drivers/vfio/pci/vfio_pci_config.c:vfio_basic_config_read()
    if is_bar(offset):
        v.bar_fixup()
    value = default_read(v, pos, count, perm, offset)
    if offset == r.PCI_COMMAND and v.pdev.is_virtfn:
        value |= v.command & r.PCI_COMMAND_MEMORY
    return value


def _basic_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    # drivers/vfio/pci/vfio_pci_config.c:vfio_basic_config_write()
    if offset == r.PCI_COMMAND:
        real, ours = v.hw_read(r.PCI_COMMAND, 2), v.command
        lost = value & ours & ~real & (r.PCI_COMMAND_IO if v.pdev.is_virtfn else DECODES)
        if lost or v.need_bar_restore():
            v.bar_restore()
    default_write(v, pos, count, perm, offset, value)
    if offset == r.PCI_COMMAND:
        v.put(r.PCI_COMMAND, 2, v.command & ~DECODES | value & DECODES)
    if offset in (r.PCI_COMMAND, r.PCI_COMMAND + 1):
        v.vdev.irqs.virtual_disable(bool(v.command & r.PCI_COMMAND_INTX_DISABLE))
    if is_bar(offset):
        v.bardirty = True
