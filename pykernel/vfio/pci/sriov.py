"""
Virtual functions of a physical function that a user has, and the token that both share
(drivers/vfio/pci/vfio_pci_core.c).
"""

from __future__ import annotations

import re
import uuid
from errno import EACCES, EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any

from pykernel.base.notify import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_BOUND_DRIVER
from pykernel.errors import err
from pykernel.lib.notifier import NotifierBlock
from pykernel.mm.uaccess import copy_from_user
from pykernel.pci.power import PCI_D0
from pykernel.uapi.linux.vfio import VFIO_DEVICE_FEATURE_SET
from pykernel.vfio.feature import vfio_check_feature

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["Sriov", "uuid_parse"]

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
UUID_STRING_LEN, UUID_SIZE = 36, 16
VF_TOKEN_ARG = "vf_token="


def uuid_parse(text: str) -> bytes:
    """The 16 bytes of the UUID *text* begins with. C: ``int uuid_parse(const char *, uuid_t *)``. Raises EINVAL."""
    m = UUID.match(text)
    if m is None:
        raise err(EINVAL, f"no UUID: {text[:UUID_STRING_LEN]!r}")
    return bytes.fromhex(m[0].replace("-", ""))


class Token:
    """``struct vfio_pci_vf_token``: *users* are the virtual functions that are open."""

    def __init__(self) -> None:
        self.uuid = uuid.uuid4().bytes
        self.users = 0


class SriovPfs:
    """``vfio_pci_sriov_pfs``: the physical functions whose virtual ones are on."""

    def __init__(self, kernel: Kernel) -> None:
        self.pfs: list[VfioPciCoreDevice] = []


class Sriov:
    """
    What a device has to do with SR-IOV.

    Attributes:
        token: of a physical function.
        pf: of a virtual function, the device of its physical function when that is a user's, too.
    """

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        self.vdev = vdev
        self.pdev = vdev.pdev
        self.token: Token | None = None
        self.pf: VfioPciCoreDevice | None = None
        self.nb = NotifierBlock(self._notify)

    def init(self) -> None:
        """C: ``int vfio_pci_vf_init(struct vfio_pci_core_device *)``."""
        if self.pdev.is_virtfn:
            pfs = self.vdev.kernel.sub(SriovPfs).pfs
            self.pf = next((pf for pf in pfs if pf.pdev is self.pdev.physfn), None)
        elif self.pdev.iov is not None:
            self.token = Token()
            self.pdev.pci.bus.notifier.register(self.nb)

    def uninit(self) -> None:
        """C: ``void vfio_pci_vf_uninit(struct vfio_pci_core_device *)``."""
        if self.token is not None:
            self.pdev.pci.bus.notifier.unregister(self.nb)
            self.token = None

    def _notify(self, _nb: NotifierBlock, action: int, dev: Any) -> int:
        # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_bus_notifier()
        if dev.physfn is not self.pdev:
            return 0
        if action == BUS_NOTIFY_ADD_DEVICE:
            self.pdev.info(f"Captured SR-IOV VF {dev.name} driver_override")
            dev.driver_override = self.vdev.ops_name
        elif action == BUS_NOTIFY_BOUND_DRIVER and dev.driver is not None and dev.driver is not self.pdev.driver:
            ours = self.pdev.driver.name if self.pdev.driver is not None else ""
            self.pdev.warn(f"VF {dev.name} bound to driver {dev.driver.name} while PF bound to driver {ours}")
        return 0

    def opened(self) -> None:
        """A virtual function was opened."""
        if self.pf is not None and self.pf.sriov.token is not None:
            self.pf.sriov.token.users += 1

    def closed(self) -> None:
        """And closed."""
        if self.pf is not None and self.pf.sriov.token is not None:
            self.pf.sriov.token.users -= 1

    # ---- the token

    def _say(self, text: str) -> None:
        self.vdev.info_ratelimited("vfio_pci_validate_vf_token", text)

    def _check_shared(self, token: Token, given: bytes | None) -> None:
        if given is None:
            self._say("VF token required to access device")
            raise err(EACCES, "a token is needed")
        if given != token.uuid:
            self._say("Incorrect VF token provided for device")
            raise err(EACCES, "another token")

    def validate(self, given: bytes | None) -> None:
        """
        C: ``int vfio_pci_validate_vf_token(struct vfio_pci_core_device *, bool, uuid_t *)``.

        Raises:
            EACCES: a token is needed, or another one.
            EINVAL: none is wanted.
        """
        if self.pdev.is_virtfn:
            if self.pf is not None and self.pf.sriov.token is not None:
                self._check_shared(self.pf.sriov.token, given)
            elif given is not None:
                self._say("VF token incorrectly provided, PF not bound to vfio-pci")
                raise err(EINVAL)
        elif self.token is not None:
            if self.token.users:
                self._check_shared(self.token, given)
            elif given is not None:
                self.token.uuid = given
        elif given is not None:
            self._say("VF token incorrectly provided, not a PF or VF")
            raise err(EINVAL)

    def match(self, buf: str) -> bool:
        """
        Whether ``BDF[ vf_token=UUID]`` is this device. C: ``int vfio_pci_core_match(struct vfio_device *, char *)``.

        Raises:
            EINVAL: an unknown word, or one twice. And as :meth:`validate`.
        """
        name = self.pdev.name
        rest = buf[len(name) :]
        if not buf.startswith(name) or (rest and rest[0] != " "):
            return False
        token: bytes | None = None
        while rest := rest.lstrip(" "):
            if token is not None or not rest.startswith(VF_TOKEN_ARG):
                raise err(EINVAL, f"{rest!r}")
            rest = rest[len(VF_TOKEN_ARG) :]
            token, rest = uuid_parse(rest), rest[UUID_STRING_LEN:]
        self.validate(token)
        return True

    def feature_token(self, flags: int, arg: int, argsz: int) -> int:
        """VFIO_DEVICE_FEATURE_PCI_VF_TOKEN. Raises ENOTTY: no physical function."""
        if self.token is None:
            raise err(ENOTTY)
        if vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, UUID_SIZE):
            self.token.uuid = copy_from_user(self.vdev.kernel, arg, UUID_SIZE)
        return 0

    # ---- on and off

    def configure(self, n: int) -> int:
        """
        C: ``int vfio_pci_core_sriov_configure(struct vfio_pci_core_device *, int)``.

        Raises:
            EINVAL: they are on. And as :meth:`pykernel.pci.iov.Iov.enable`.
        """
        vdev, pdev = self.vdev, self.pdev
        pfs = vdev.kernel.sub(SriovPfs).pfs
        if not n:
            if pdev.iov is not None and pdev.iov.vfs:
                pdev.iov.disable()
                pdev.power.put()
            self._off(pfs)
            return 0
        if vdev in pfs:
            raise err(EINVAL, "virtual functions are on")
        pfs.append(vdev)
        try:
            pdev.power.resume_and_get()
            vdev.set_power_state(PCI_D0)
            vdev.sriov_active = True
            try:
                pdev.iov.enable(n)
            except OSError:
                pdev.power.put()
                raise
        except OSError:
            self._off(pfs)
            raise
        return n

    def _off(self, pfs: list[VfioPciCoreDevice]) -> None:
        self.vdev.sriov_active = False
        if self.vdev in pfs:
            pfs.remove(self.vdev)
