"""
Ten thousand devices: emulated, and recorded. A thousand: accelerators; a dump, here and under umockdev.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from pykernel.tools.bench.measure import Row

__all__ = ["COUNT", "rows"]

COUNT = 10_000
THOUSAND = 1_000
DUMPED = 1_000  # umockdev's reader takes time with the square of a dump's length
ATTRS = {
    "vendor": "0x8086", "device": "0x0b25", "class": "0x088000", "numa_node": "0", "revision": "0x00", "enable": "1"
}  # fmt: skip

# prints seconds and MiB: devices of a driver's class registered, every file of theirs looked up
PLAIN = """
import os, time
import pykernel
from pykernel.base.bus import Bus
from pykernel.base.core import Device
from pykernel.fs.sysfs import AttrGroup

def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

attrs = {attrs!r}
shows = {{f"{{name}}_show": lambda self, text=text: text + "\\n" for name, text in attrs.items()}}
Plain = type("Plain", (Device,), {{"attrs": AttrGroup(*attrs), **shows}})
kernel = pykernel.boot("dsa")
proc = kernel.process()
bus = Bus(kernel, "plain")
kernel.up()
bus.register()
before, start = rss(), time.perf_counter()
devices = [Plain(kernel, f"plain{{n}}", bus=bus) for n in range({count})]
for device in devices:
    device.register()
for device in devices:
    assert len(device.dir.filled()) >= len(attrs)
print(time.perf_counter() - start, rss() - before)
assert proc.read_text(f"/sys/bus/plain/devices/plain{last}/class") == attrs["class"] + "\\n"
"""
# prints seconds and MiB: a machine file read, booted, its devices listed
RECORDED = """
import os, sys, time
import pykernel

def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

pykernel.boot("dsa").process().listdir("/sys/devices")
before, start = rss(), time.perf_counter()
proc = pykernel.boot(sys.argv[1]).process()
names = proc.listdir("/sys/bus/pci/devices")
loaded = time.perf_counter() - start
assert len(names) == {count}
assert proc.read_text(f"/sys/bus/pci/devices/{{names[-1]}}/class") == "0x088000\\n"
print(loaded, rss() - before)
"""

# prints seconds and MiB: a thousand accelerators with their queues, engines and groups, probed by their driver
ACCELERATORS = """
import os, time
import pykernel
from pykernel.machine import parse

def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

pykernel.boot("dsa").up()
before, start = rss(), time.perf_counter()
machine = parse('[[pci]]\\nmodel = "dsa"\\n' * {count} + '[modules]\\nidxd = ""\\n')
kernel = pykernel.boot(machine)
kernel.up()
print(time.perf_counter() - start, rss() - before)
proc = kernel.process()
assert len(proc.listdir("/sys/bus/dsa/devices")) == 17 * {count}
assert proc.read_text("/sys/bus/dsa/devices/wq{last}.7/state") == "disabled\\n"
"""


def _names(count: int) -> list[str]:
    return [f"{n >> 16:04x}:{n >> 8 & 255:02x}:{n >> 3 & 31:02x}.{n & 7}" for n in range(count)]


def recording() -> str:
    """A machine file with COUNT devices, as ``pykernel record`` writes it."""
    out = ['[recorded]\nwrites = "EIO"\n', '[[sysfs]]\npath = "/sys/bus/pci/devices"\n[sysfs.links]\n']
    out += [f'"{name}" = "../../../devices/pci0000:00/{name}"\n' for name in _names(COUNT)]
    attrs = "".join(f'{name} = "{text}\\n"\n' for name, text in sorted(ATTRS.items()))
    for name in _names(COUNT):
        out.append(f'\n[[sysfs]]\npath = "/sys/devices/pci0000:00/{name}"\nmodes.0644 = ["enable", "uevent"]\n')
        out.append(f'[sysfs.attrs]\n{attrs}uevent = "DRIVER=idxd\\n"\n[sysfs.links]\nsubsystem = "../../../bus/pci"\n')
    return "".join(out)


def dump() -> str:
    """DUMPED of these devices as umockdev-record writes them."""
    attrs = "".join(f"A: {name}={text}\\n\n" for name, text in sorted(ATTRS.items()))
    tail = f"E: DRIVER=idxd\nE: SUBSYSTEM=pci\n{attrs}\n"
    return "".join(f"P: /devices/pci0000:00/{name}\n{tail}" for name in _names(DUMPED))


def fresh(code: str, *argv: str, times: int = 3) -> tuple[float, float]:
    """The two numbers that *code* prints in a fresh interpreter: medians of *times* runs."""
    found = []
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True, text=True)
        found.append([float(word) for word in done.stdout.split()])
    return median(seconds for seconds, _ in found), median(mib for _, mib in found)


def peer(file: Path) -> tuple[float, float]:
    """Seconds until umockdev-run has loaded *file*, and MiB of files that it makes in memory."""
    env = dict(os.environ, TMPDIR=str(file.parent))
    start = time.perf_counter()
    script = "du -sk $UMOCKDEV_DIR | cut -f1; exec true"
    subprocess.run(["umockdev-run", "-d", str(file), "--", "true"], check=True, env=env)
    seconds = time.perf_counter() - start
    argv = ["umockdev-run", "-d", str(file), "--", "sh", "-c", script]
    done = subprocess.run(argv, check=True, env=env, capture_output=True, text=True)
    return seconds, int(done.stdout) / 1024


def _pair(
    name: str, found: tuple[float, float], seconds: float | None = None, mib: float | None = None, base: str = ""
) -> Iterator[Row]:
    yield Row(name, found[0], seconds, base)
    yield Row(f"{name}, memory", found[1], mib, base and f"{base}, memory", unit="MiB")


def rows() -> Iterator[Row]:
    """Emulated, recorded, dumped, and the peer if it is installed, each with its memory."""
    plain = fresh(PLAIN.format(attrs=ATTRS, count=COUNT, last=COUNT - 1))
    yield from _pair(f"{COUNT:,} devices registered, looked up", plain, 1.0, 60.0)
    many = fresh(ACCELERATORS.format(count=THOUSAND, last=THOUSAND - 1))
    yield from _pair(f"{THOUSAND:,} DSAs probed, {20 * THOUSAND:,} kobjects", many, 3.0)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pykernel-bench-") as tmp:
        toml, other = Path(tmp) / "many.toml", Path(tmp) / "few.umockdev"
        toml.write_text(recording())
        other.write_text(dump())
        yield from _pair(f"{COUNT:,} recorded devices, load", fresh(RECORDED.format(count=COUNT), str(toml)), 2.0)
        base = f"{DUMPED:,} dumped devices, umockdev-run" if shutil.which("umockdev-run") else ""
        here = fresh(RECORDED.format(count=DUMPED), str(other))
        yield from _pair(f"{DUMPED:,} dumped devices, load", here, base=base)
        if base:
            yield from _pair(base, peer(other))
