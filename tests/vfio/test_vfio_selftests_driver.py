"""
The kernel's selftests vfio_pci_driver_test and vfio_pci_sriov_uapi_test, case by case, by their names.

The driver is the tests' own for a Data Streaming Accelerator; what has virtual functions is test silicon. A token comes
with the name of a device, as its group is asked; nodes take one in later kernels.
"""

from __future__ import annotations

import os
import struct
from errno import EACCES, EAGAIN

import pytest
import vfioclient as client
from dsa_user_driver import Dsa
from errnos import errno_of
from vfiocard import SLOT, Box, Card

import pykernel
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, DSA_OPCODE_MEMMOVE, DSA_OPCODE_NOOP

DSA = "0000:6a:01.0"
MACHINE = f'[[pci]]\nmodel = "dsa"\naddress = "{DSA}"\n[modules]\nvfio_pci = "disable_denylist=1"\n'
WAYS = (
    ("linux-6.1", client.Container),
    ("linux-6.12", client.Container),
    ("linux-6.12", client.Iommufd),
    ("linux-7.2", client.Iommufd),
)
M, G = 1 << 20, 1 << 30
SIZE = M
"""Of a copy: what this driver sets up, less than the device could do."""
UNMAPPED = 8 * G
VECTOR = 1


class Driver:
    """What lib/drivers/dsa/dsa.c does for the tests."""

    def __init__(self, profile, way):
        self.kernel = pykernel.boot(parse(MACHINE), profile)
        self.root, self.proc = self.kernel.process(), self.kernel.process(comm="selftest")
        client.detach(self.root, DSA)
        self.iommu = way(self.proc)
        self.device = self.iommu.device(client.sysfs(DSA))
        self.memory = client.anonymous(self.proc, 4 * SIZE)
        self.iova = G
        self.src, self.dst, self.record = self.iova, self.iova + SIZE, self.iova + 2 * SIZE
        self.iommu.map(self.memory, self.iova, 4 * SIZE)
        self.init()

    def init(self):
        self.dsa = Dsa(self.proc, self.device)
        self.dsa.start()
        self.msi = self.proc.eventfd(0, os.O_NONBLOCK)
        self.device.signal_by(v.VFIO_PCI_MSIX_IRQ_INDEX, [-1, self.msi])

    def remove(self):
        self.device.disable(v.VFIO_PCI_MSIX_IRQ_INDEX)
        self.proc.close(self.msi)
        self.dsa.stop()

    def put(self, iova, data):
        self.proc.mem.write(self.memory + iova - self.iova, data)

    def get(self, iova, n):
        return bytes(self.proc.mem.read(self.memory + iova - self.iova, n))

    def submit(self, vector=0, **fields):
        """A descriptor; the status that its completion record says."""
        self.put(self.record, bytes(32))
        self.dsa.submit(completion=self.record, vector=vector, **fields)
        for _ in range(1000):
            status = self.get(self.record, 1)[0]
            if status:
                return status & 0x3F
            self.proc.poll([], 1)
        raise AssertionError("it does not complete")

    def memcpy(self, src, dst):
        return self.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=dst, xfer_size=SIZE)

    def send_msi(self):
        assert self.submit(VECTOR, opcode=DSA_OPCODE_NOOP) == DSA_COMP_SUCCESS
        self.proc.poll([(self.msi, 1)], 100)
        assert self.proc.read(self.msi, 8) == (1).to_bytes(8, "little")

    def no_msi(self):
        assert errno_of(self.proc.read, self.msi, 8) == EAGAIN

    def copies(self):
        self.put(self.src, b"x" * SIZE)
        self.put(self.dst, b"y" * SIZE)
        assert self.memcpy(self.src, self.dst) == DSA_COMP_SUCCESS
        assert self.get(self.dst, SIZE) == b"x" * SIZE

    def tear_down(self):
        self.remove()
        assert self.iommu.unmap(self.iova, 4 * SIZE) == 4 * SIZE
        self.proc.exit()
        client.reattach(self.root, DSA)
        self.root.exit()
        self.kernel.shutdown()
        assert not self.kernel.oopses


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1].__name__}")
def driver(request):
    driver = Driver(*request.param)
    yield driver
    driver.tear_down()


# ---- vfio_pci_driver_test


def test_vfio_pci_driver_test_init_remove(driver):
    for _ in range(10):
        driver.remove()
        driver.init()


def test_vfio_pci_driver_test_memcpy_success(driver):
    driver.copies()
    driver.no_msi()


def test_vfio_pci_driver_test_memcpy_from_unmapped_iova(driver):
    """This device tells."""
    assert driver.memcpy(UNMAPPED, driver.dst) != DSA_COMP_SUCCESS
    driver.no_msi()


def test_vfio_pci_driver_test_memcpy_to_unmapped_iova(driver):
    """This device tells."""
    assert driver.memcpy(driver.src, UNMAPPED) != DSA_COMP_SUCCESS
    driver.no_msi()


def test_vfio_pci_driver_test_send_msi(driver):
    driver.send_msi()


def test_vfio_pci_driver_test_mix_and_match(driver):
    for _ in range(10):
        driver.copies()
        assert driver.memcpy(UNMAPPED, driver.dst) != DSA_COMP_SUCCESS
        driver.send_msi()


def test_vfio_pci_driver_test_memcpy_storm(driver):
    """As many as fit into a batch of the original, of 1 MiB each, one after another."""
    for _ in range(32):
        assert driver.memcpy(driver.src, driver.dst) == DSA_COMP_SUCCESS
    driver.no_msi()


# ---- vfio_pci_sriov_uapi_test

UUID_1, UUID_2 = "52ac9bff-3a88-4fbd-901a-0d767c3b6c97", "88594674-90a0-47a9-aea8-9d9b352ac08a"
VF = "0000:6a:02.0"
GROUP_MODES = [
    ("linux-6.1", "/dev/vfio/vfio", v.VFIO_TYPE1_IOMMU),
    ("linux-6.1", "/dev/vfio/vfio", v.VFIO_TYPE1v2_IOMMU),
    ("linux-6.12", "/dev/vfio/vfio", v.VFIO_TYPE1v2_IOMMU),
    ("linux-6.12", "/dev/iommu", v.VFIO_TYPE1_IOMMU),
    ("linux-6.12", "/dev/iommu", v.VFIO_TYPE1v2_IOMMU),
    ("linux-7.2", "/dev/vfio/vfio", v.VFIO_TYPE1v2_IOMMU),
    ("linux-7.2", "/dev/iommu", v.VFIO_TYPE1v2_IOMMU),
]


class Sriov:
    """A physical function that is opened with UUID_1, and one virtual function of it."""

    def __init__(self, profile, path, iommu_type):
        box = Box(Card(vfs=2), profile, "enable_sriov=1", opened=False)
        self.kernel, self.proc = box.kernel, box.proc
        self.proc.write_text(f"{box.path}/sriov_numvfs", "1")
        assert client.driver_of(self.proc, VF) == "vfio-pci"
        self.container = client.Container(self.proc, iommu_type, path)
        self.pf = self.open(SLOT, UUID_1)

    def open(self, bdf, token):
        """VFIO_GROUP_GET_DEVICE_FD with a token or none."""
        group = os.path.basename(self.proc.readlink(f"{client.sysfs(bdf)}/iommu_group"))
        words = f"{bdf} vf_token={token}" if token else bdf
        fd = self.container.group(group)
        return self.proc.ioctl(fd, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(words.encode() + b"\0"))

    def set_token(self, token):
        payload = bytes.fromhex(token.replace("-", ""))
        flags = v.VFIO_DEVICE_FEATURE_SET | v.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
        self.proc.ioctl(self.pf, v.VFIO_DEVICE_FEATURE, bytearray(struct.pack("<II", 24, flags) + payload))


@pytest.fixture(params=GROUP_MODES, ids=lambda row: f"{row[0]}-{row[1][5:]}-{row[2]}")
def sriov(request):
    sriov = Sriov(*request.param)
    yield sriov
    sriov.proc.exit()
    assert not sriov.kernel.oopses


TOKENS = pytest.mark.parametrize("token", [UUID_1, UUID_2, None], ids=["same_uuid", "diff_uuid", "null_uuid"])


@TOKENS
def test_vfio_pci_sriov_uapi_test_init_token_match(sriov, token):
    assert errno_of(sriov.open, VF, token) == (0 if token == UUID_1 else EACCES)


@TOKENS
def test_vfio_pci_sriov_uapi_test_pf_early_close(sriov, token):
    """The token stays when the physical function is closed."""
    sriov.proc.close(sriov.pf)
    assert errno_of(sriov.open, VF, token) == (0 if token == UUID_1 else EACCES)


@TOKENS
def test_vfio_pci_sriov_uapi_test_override_token(sriov, token):
    sriov.set_token(UUID_2)
    assert errno_of(sriov.open, VF, token) == (0 if token == UUID_2 else EACCES)
