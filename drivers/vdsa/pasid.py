"""PASIDs of a virtual DSA: the guest's are looked up in the ioasid set of its user, the host's reach the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.drivers.vdsa.commands import Status

if TYPE_CHECKING:
    from pykernel.drivers.vdsa.device import VdsaDevice

__all__ = ["Pasids"]


class Pasids:
    """
    The PASIDs of one device.

    Attributes:
        default: the host PASID for what the guest does without one, or None.
    """

    def __init__(self, device: VdsaDevice) -> None:
        self.device = device
        self.default: int | None = None

    def host_pasid(self, guest: int) -> int | None:
        """The host's number of a guest PASID; None: it has none."""
        return None

    def host_pasids(self) -> list[int]:
        """All of the guest, the default one included."""
        return [] if self.default is None else [self.default]

    def enable(self) -> int:
        """Turn the dedicated queue on for the PASID in the virtual WQCFG; the status of the command."""
        device = self.device
        flags = device.regs.wqcfg[0].flags
        pasid = self.host_pasid(flags.pasid) if flags.pasid_en else self.default
        if pasid is None:
            return Status.WQ_PASID_EN
        return device.host.enable(pasid, priv=bool(flags.priv))

    def disable(self) -> None:
        """Turn it off."""
        if self.device.wq.dedicated:
            self.device.host.disable()
