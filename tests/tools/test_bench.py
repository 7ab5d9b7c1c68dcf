"""The benchmark measures what it says; its figures are not tested, they depend on the machine."""

from __future__ import annotations

import importlib
import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from pykernel.tools.bench import devices, dma, headers, inside, mdev, process, startup, sva, vfio, vmm
from pykernel.tools.bench.measure import Row, per_call

bench = importlib.import_module("pykernel.tools.bench.__main__")

TARGETS = {
    "import pykernel": 0.150,
    "boot dsa": 0.010,
    "all devices up": 0.060,
    "pykernel run -- true": 0.300,
    "struct pack+unpack, vfio_device_info": 2e-6,
    "pykernel uapi check, all headers": 15.0,
    "1 MiB copied by a device, dma_read+dma_write": 1e-6 / 0.6,
    "1 MiB copied by a device, dma_view": 1e-6 / 0.6,
    "64 bytes, dma_read": 2e-6,
    "64 bytes, dma_write": 2e-6,
    "an mdev created and removed, direct": 1e-3,
    "an mdev created, the first of 12": 1e-3,
    "an mdev created, the last of 12": 1e-3,
    "MAP_DMA of a page, 2 live mappings": 60e-6,
    "UNMAP_DMA of a page, 2 live mappings": 60e-6,
    "MAP_DMA of a page, 5 live mappings": 60e-6,
    "UNMAP_DMA of a page, 5 live mappings": 60e-6,
    "a page fault and its unmap, page tables in RAM": 20e-6,
    "a page populated and unmapped, page tables in RAM": 10e-6,
    "EPT: an address in the TLB": 2e-6,
    "ENQCMD: the processor's part, with the call": 3e-6,
    "SVA: 64 bytes read, in the IOTLB": 2e-6,
    "SVA: a page's view, in the IOTLB": 3e-6,
    "nested: 64 bytes read, in the IOTLB": 2e-6,
    "an IOASID given out and freed, 500,000 live": 1e-5,
    "an IOASID freed in the middle and given out again": 1e-5,
    "an IOASID found by the guest's number": 5e-6,
    "4 KiB, ENQCMD to completion, a process of a guest": 1e-4,
    "12 devices registered, looked up": 1.0,
    "12 devices registered, looked up, memory": 60.0,
    "12 recorded devices, load": 2.0,
    "2 DSAs probed, 40 kobjects": 3.0,
    "a test with the fixture kernel, the same": 0.005,
    "open+read+close, direct": 15e-6,
    "open+read+close, patched, os.open": 20e-6,
    "open+read+close, C, process surface, plain": 40e-6,
    "open+write+close, C, process surface": 60e-6,
    "a guest's PASID translated": 3e-6,
    "an exit of a virtual processor and its entry": 2e-5,
    "a PASID bound and unbound, 1 processors kicked": 1.03e-4,
    "a PASID bound and unbound, 8 processors kicked": 1.24e-4,
    "a PASID bound and unbound, 64 processors kicked": 2.92e-4,
}


@pytest.fixture
def quick(monkeypatch):
    """Each thing is done once: what is measured must work, how fast is not asked."""

    def once(fn, **_how):
        fn()
        return 1e-6

    monkeypatch.setattr(inside, "per_call", once)
    monkeypatch.setattr(dma, "per_call", once)
    monkeypatch.setattr(mdev, "per_call", once)
    monkeypatch.setattr(mdev, "COUNT", 12)
    monkeypatch.setattr(vfio, "per_call", once)
    monkeypatch.setattr(sva, "per_call", once)
    monkeypatch.setattr(vmm, "per_call", once)
    monkeypatch.setattr(vfio, "LIVE", (2, 5))
    monkeypatch.setattr(vfio, "BLOCKS", 1)
    monkeypatch.setattr(vfio, "CALLS", 2)
    monkeypatch.setattr(headers, "per_call", once)
    monkeypatch.setattr(headers, "wall", lambda argv, **_how: 1e-3 if shutil.which(argv[0]) else 0)
    monkeypatch.setattr(startup, "python", lambda code, **_how: 1e-3 if compile(code, "bench", "exec") else 0)
    monkeypatch.setattr(startup, "wall", lambda argv, **_how: 1e-3 if shutil.which(argv[0]) else 0)
    monkeypatch.setattr(devices, "COUNT", 12)
    monkeypatch.setattr(devices, "DUMPED", 9)
    monkeypatch.setattr(devices, "THOUSAND", 2)
    monkeypatch.setattr(process, "CLIENT", process.CLIENT.replace("BLOCKS = 21, CALLS = 300", "BLOCKS = 1, CALLS = 1"))


def test_every_target_has_its_row(quick, fuse, require_program):
    require_program("cc")

    groups = (startup, inside, headers, dma, devices, mdev, vfio, sva, vmm, process)
    rows: list[Row] = [row for group in groups for row in group.rows()]

    assert {row.name: row.target for row in rows if row.target is not None} == pytest.approx(TARGETS)
    assert len({row.name for row in rows}) == len(rows)
    assert {row.base for row in rows if row.base} <= {row.name for row in rows}
    assert all(row.seconds > 0 for row in rows if row.unit == "s")


def test_per_call_is_the_median_of_means(monkeypatch):
    """Blocks of 2 calls that take 9 (warm-up), 1, 100, 3 seconds a call: the median is 3."""
    clock, steps = [0.0], iter([9.0] * 2 + [1.0] * 2 + [100.0] * 2 + [3.0] * 2)
    monkeypatch.setattr("pykernel.tools.bench.measure.time.perf_counter", lambda: clock[0])

    def call():
        clock[0] += next(steps)

    assert per_call(call, blocks=3, calls=2) == 3.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.34e-6, "8.3 us"), (271.9e-6, "272 us"), (0.0018, "1.8 ms"), (0.283, "283 ms")]
)
def test_figures_have_three_digits(seconds, text):
    assert bench.human(seconds) == text


ROWS = [
    Row("floor", 1e-6),
    Row("slow", 50e-6, 10e-6, "floor"),
    Row("fast", 2e-6, 10e-6, "floor"),
    Row("odd", 1.0, None, "x"),
]


@pytest.mark.parametrize(("rows", "status"), [(ROWS, 1), (ROWS[:1] + ROWS[2:], 0)], ids=["missed", "met"])
def test_a_missed_target_is_the_exit_status(monkeypatch, rows, status):
    monkeypatch.setattr(bench, "measured", lambda only: iter(rows))

    done = CliRunner().invoke(bench.command)

    assert done.exit_code == status
    assert len(done.output.splitlines()) == 1 + len(rows)


def test_the_table_has_target_and_ratio(monkeypatch):
    monkeypatch.setattr(bench, "measured", lambda only: iter(ROWS))

    lines = CliRunner().invoke(bench.command).output.splitlines()

    assert [line.split() for line in lines] == [
        ["what", "(median)", "measured", "target", "ratio", "to"],
        ["floor", "1.0", "us"],
        ["slow", "50.0", "us", "10.0", "us", "50.0", "floor"],
        ["fast", "2.0", "us", "10.0", "us", "2.0", "floor"],
        ["odd", "1000", "ms"],
    ]


def test_json_has_a_row_a_line(monkeypatch):
    monkeypatch.setattr(bench, "measured", lambda only: iter(ROWS))

    rows = [json.loads(line) for line in CliRunner().invoke(bench.command, ["--json"]).output.splitlines()]

    assert [Row(**row) for row in rows] == ROWS


def test_a_series_tells_how_many_live():
    proc = mdev.booted(10).process()

    found = mdev.series(proc, 9, 3)

    assert [alive for alive, _ in found] == [3, 6, 9]
    assert all(cost > 0 for _, cost in found)
    assert len(proc.listdir("/sys/bus/mdev/devices")) == 9
    assert proc.read_text(f"{mdev.PARENT}/available_instances") == "1\n"


def test_a_plot(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(mdev, "COUNT", 12)

    done = CliRunner().invoke(bench.command, ["--plot", str(tmp_path / "mdev.png")])

    assert (done.exit_code, done.output) == (0, "")
    assert (tmp_path / "mdev.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(bench.command, ["--plot", str(tmp_path / "none" / "mdev.png")])
    assert done.exit_code == 1
    assert "No such file or directory" in done.output


def test_a_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)

    done = CliRunner().invoke(bench.command, ["--plot", "mdev.png"])

    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "needs matplotlib, which is not installed" in done.output
