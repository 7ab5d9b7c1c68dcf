"""
Python scripts and libraries that know nothing of this project, run unmodified in the test's own process.

What is expected of them is what they do on Linux: DPDK's scripts print what their sources say for devices, drivers and
modules as sysfs has them; what they did is read from sysfs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pykernel.kernel import Kernel

Script = Callable[..., tuple[object, str, str]]

WARNING = "Warning: no supported DPDK kernel modules are loaded\n"
NO_DEVICE = "[Errno 19] No such device"
DSA, IAX, OTHER = "0000:6a:01.0", "0000:6a:02.0", "0000:6f:01.0"
PCI = "/sys/bus/pci/devices"

pytestmark = pytest.mark.kernel(machine="dsa")  # no driver is there that DPDK's scripts would take


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Script:
    """``run_script(path, *arguments)``: what sys.exit() was given, and what it and its children wrote."""

    def run(path: str, *arguments: str) -> tuple[object, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        status: object = 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as e:
            status = e.code or 0
        out, error = capfd.readouterr()
        return status, out, error

    return run


@pytest.fixture
def devbind(run_script: Script, require_program: Callable[[str], str]) -> Script:
    """dpdk-devbind.py; lspci's own complaint about the host's modules is left out."""
    path = require_program("dpdk-devbind.py")

    def run(*arguments: str) -> tuple[object, str, str]:
        status, out, error = run_script(path, *arguments)
        return status, out, re.sub("lspci: .*libkmod.*\n", "", error)

    return run


def _driver(address: str) -> str | None:
    link = Path(PCI, address, "driver")
    return os.path.basename(os.readlink(link)) if link.is_symlink() else None


def _section(title: str, *rows: str) -> str:
    return "\n".join(("", title, "=" * len(title), *rows, ""))


# ---- DPDK: usertools/dpdk-devbind.py


def _using(out: str) -> dict[str, str]:
    """Address to "kernel", "dpdk" or "none", as the headings of --status-dev dma say."""
    kinds = {
        "DMA devices using kernel driver": "kernel",
        "DMA devices using DPDK-compatible driver": "dpdk",
        "Other DMA devices": "none",
    }
    found, kind = {}, ""
    for line in out.splitlines():
        kind = kinds.get(line, kind)
        address = re.match("[0-9a-f]{4}:[0-9a-f:.]+", line)
        if address is not None:
            found[address[0]] = kind
    return found


def test_devbind_status(kernel: Kernel, devbind: Script) -> None:
    """A DSA is a DMA device of the kernel's driver idxd; of the other kinds there are none."""
    status, out, error = devbind("--status")

    assert (status, error) == (0, "")
    for kind in ("Network", "Baseband", "Crypto", "Eventdev", "Mempool", "Compress", "Misc (rawdev)", "Regex"):
        assert _section(f"No '{kind}' devices detected") in out
    assert _using(out) == {DSA: "kernel", OTHER: "kernel"}
    assert re.search(rf"^{DSA} '.*0b25' drv=idxd unused=", out, re.M)


def test_devbind_unbinds_and_binds(kernel: Kernel, devbind: Script) -> None:
    """-u takes the driver away, -b gives it back; each is seen at once in sysfs and in the next status."""
    assert devbind("-u", "6a:01.0")[0] == 0
    assert _driver(DSA) is None
    assert not Path("/sys/bus/dsa/devices/dsa0").exists()
    assert _using(devbind("--status-dev", "dma")[1]) == {DSA: "none", OTHER: "kernel"}

    status, _, error = devbind("-u", DSA)
    assert status == 0
    assert re.fullmatch(f"{WARNING}Notice: {DSA} .*is not currently managed by any driver\n", error)

    status, out, _ = devbind("-b", "idxd", DSA, "--status-dev", "dma")
    assert (status, _using(out)) == (0, {DSA: "kernel", OTHER: "kernel"})
    assert Path("/sys/bus/dsa/devices/dsa0/state").read_text() == "disabled\n"
    assert devbind("-b", "idxd", DSA)[2] == f"{WARNING}Notice: {DSA} already bound to driver idxd, skipping\n"


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "igb_uio", "nothing"])
def test_devbind_a_driver_that_is_not_there(kernel: Kernel, devbind: Script, driver: str) -> None:
    """The script refuses before it unbinds."""
    status, _, error = devbind("-b", driver, DSA)

    assert (status, error) == (f"Error: Driver '{driver}' is not loaded.", WARNING)
    assert _driver(DSA) == "idxd"


def test_devbind_a_driver_that_does_not_match(kernel: Kernel, devbind: Script) -> None:
    """
    pci-stub knows no device until it is told, so bind is ENODEV.

    The script then looks for the driver "" to bind the old one again: sysfs lets nobody create a file (EACCES).
    """
    status, _, error = devbind("-b", "pci-stub", DSA)

    assert error == f"{WARNING}Error: bind failed for {DSA} - Cannot bind to driver pci-stub: {NO_DEVICE}\n"
    assert status == (
        f"Error: unbind failed for {DSA} - Cannot open /sys/bus/pci/drivers//unbind: "
        "[Errno 13] Permission denied: '/sys/bus/pci/drivers//unbind'"
    )
    assert _driver(DSA) is None


def test_devbind_a_driver_that_was_told(kernel: Kernel, devbind: Script) -> None:
    """After new_id pci-stub takes the device, and gives it back."""
    Path("/sys/bus/pci/drivers/pci-stub/new_id").write_text("8086 0b25")

    assert devbind("-b", "pci-stub", DSA) == (0, "", WARNING)
    assert _driver(DSA) == "pci-stub"
    assert "drv=pci-stub unused=" in devbind("--status-dev", "dma")[1]
    assert devbind("-b", "idxd", DSA) == (0, "", WARNING)
    assert _driver(DSA) == "idxd"


def test_devbind_by_pattern(kernel: Kernel, devbind: Script) -> None:
    """The script expands patterns in /sys/bus/pci/devices."""
    assert devbind("-u", "6?:01.0")[0] == 0
    assert [_driver(address) for address in (DSA, IAX, OTHER)] == [None, "idxd", None]


# ---- DPDK: drivers/dma/idxd/dpdk_idxd_cfg.py


@pytest.fixture
def idxd_cfg(run_script: Script) -> Script:
    """The script that configures a DSA for DPDK; it is in the source package only."""
    where = Path(__file__).parents[2] / "build" / "dpdk" / "dpdk_idxd_cfg.py"
    if not where.exists():
        sentence = f"no {where}: tests/clients/get_dpdk.sh build/dpdk"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return lambda *arguments: run_script(str(where), *arguments)


def _queue(name: str) -> dict[str, str]:
    names = ("state", "mode", "type", "name", "priority", "size", "group_id", "max_batch_size")
    return {one: Path("/sys/bus/dsa/devices", name, one).read_text().rstrip("\n") for one in names}


def test_idxd_cfg(kernel: Kernel, idxd_cfg: Script) -> None:
    """Two queues share all entries, each in a group of its own with an engine, enabled for user space."""
    total = int(Path("/sys/bus/dsa/devices/dsa0/max_work_queues_size").read_text())

    assert idxd_cfg("0", "-q", "2") == (0, "", "")

    assert Path("/sys/bus/dsa/devices/dsa0/state").read_text() == "enabled\n"
    for n in range(2):
        assert _queue(f"wq0.{n}") == {
            "state": "enabled", "mode": "dedicated", "type": "user", "name": f"dpdk_wq0.{n}", "priority": "1",
            "size": str(total // 2), "group_id": str(n), "max_batch_size": "1024",
        }  # fmt: skip
        assert Path(f"/sys/bus/dsa/devices/engine0.{n}/group_id").read_text() == f"{n}\n"
        assert Path(f"/dev/dsa/wq0.{n}").is_char_device()
    assert Path("/sys/bus/dsa/devices/wq0.2/state").read_text() == "disabled\n"

    assert idxd_cfg("0", "--reset") == (0, "", "")
    assert Path("/sys/bus/dsa/devices/dsa0/state").read_text() == "disabled\n"
    assert not Path("/dev/dsa").exists()


def test_idxd_cfg_by_address(kernel: Kernel, idxd_cfg: Script) -> None:
    """The script finds the instance below the PCI function, and takes options for the queues."""
    assert idxd_cfg(OTHER, "-q", "1", "--name-prefix", "app", "--wq-option", "priority=9")[0] == 0
    queue = _queue("wq2.0")
    assert (queue["state"], queue["name"], queue["priority"]) == ("enabled", "app_wq2.0", "9")


def test_idxd_cfg_fails_as_on_linux(kernel: Kernel, idxd_cfg: Script) -> None:
    """A value that the driver refuses is the driver's errno."""
    with pytest.raises(OSError, match="Invalid argument"):
        idxd_cfg("0", "-q", "1", "--wq-option", "size=100000")


# ---- libraries


def test_pcicrawler(kernel: Kernel) -> None:
    """It decodes configuration space itself: a DSA is an integrated endpoint without a link."""
    from pci_lib.pci_lib import PCIConfigSpace, map_pci_device
    from pcicrawler.cli import main

    PCIConfigSpace.configspaces.clear()
    device: Any = map_pci_device("6a:01.0")
    assert (device.vendor_id, device.device_id, device.class_id) == (0x8086, 0x0B25, 0x088000)
    assert device.express_type == "root_complex_endpoint"
    assert (device.parent, device.express_link, device.express_slot) == (None, None, None)

    done = CliRunner().invoke(main, ["--json", "--hexify"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert {address: row["device_id"] for address, row in told.items()} == {
        DSA: "0b25", IAX: "0cfe", OTHER: "0b25",
    }  # fmt: skip
    PCIConfigSpace.configspaces.clear()


def test_pylspci(kernel: Kernel, require_program: Callable[[str], str]) -> None:
    """It runs lspci, which sees what this process sees."""
    require_program("lspci")
    from pylspci.parsers.verbose import VerboseParser

    found = {str(device.slot): device for device in VerboseParser().run()}
    assert set(found) == {DSA, IAX, OTHER}
    assert (found[DSA].vendor.id, found[DSA].device.id, found[DSA].cls.id) == (0x8086, 0x0B25, 0x0880)
    assert (found[DSA].driver, found[DSA].iommu_group) == ("idxd", 0)
    Path("/sys/bus/pci/drivers/idxd/unbind").write_text(DSA)
    assert {str(device.slot): device.driver for device in VerboseParser().run()}[DSA] is None


def test_xnvme_devbind(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """PyPI's devbind: lspci through a shell, and its own way to unbind and bind."""
    import devbind

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["devbind", "--classcode", "0x0880", *arguments])
        devbind.main()
        return capsys.readouterr().out

    assert f"bdf: '{DSA}'" in run("--list")
    assert "driver: 'idxd'" in run("--list", "--device", DSA)
    run("--unbind", "--device", DSA)
    assert _driver(DSA) is None
    with pytest.raises(SystemExit) as e:
        run("--bind", "vfio-pci", "--device", DSA)
    assert e.value.code == errno.ENOENT  # /sys/bus/pci/drivers/vfio-pci/bind
    assert Path(PCI, DSA, "driver_override").read_text() == "vfio-pci\n"


def test_lspci_is_the_one_of_pykernel_run(
    kernel: Kernel, pykernel_run: Callable[..., Any], require_program: Callable[[str], str]
) -> None:
    """A child of patched code sees what a program under ``pykernel run`` sees."""
    require_program("lspci")
    words = ["lspci", "-Dvvvnnxxx"]
    mine = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    assert mine == pykernel_run("linux-6.1", *words, machine="dsa").stdout
