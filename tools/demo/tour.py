"""``pykernel demo``: the first tour. Configure a queue as an administrator, then copy memory with it as a client."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pykernel.tools.options import Fail

if TYPE_CHECKING:
    from rich.console import Console

    from pykernel.kernel import Kernel
    from pykernel.syscalls import Process

__all__ = ["PYTEST", "TEXT", "Demo", "tour"]

WQ, NODE = "wq0.0", "/dev/dsa/wq0.0"
TEXT = b"copied by a device that is not there"

# Printed at the end, for the reader to paste
PYTEST = """\
from pykernel.tools.dsa import enable_wq, memmove

def test_a_dedicated_queue_copies_memory(kernel):
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="dedicated", size=16)
    assert memmove(proc, "/dev/dsa/wq0.0", b"hello") == b"hello"
"""

ACCEL_CONFIG = (
    ("config-engine", "dsa0/engine0.0", "--group-id=0"),
    ("config-wq", "dsa0/wq0.0", "--group-id=0", "--mode=dedicated", "--wq-size=16", "--priority=10", "--type=user",
     "--name=demo"),
    ("enable-device", "dsa0"),
    ("enable-wq", "dsa0/wq0.0"),
)  # fmt: skip


@dataclass
class Demo:
    """The tour, step by step; ``say`` is where it is told."""

    kernel: Kernel
    say: Console

    def step(self, title: str) -> None:
        """Begin a step."""
        self.say.print(f"\n[bold cyan]{title}", soft_wrap=True)

    def line(self, text: str) -> None:
        """One line of the step, wrapped by the terminal if at all."""
        self.say.print(f"  {text}", soft_wrap=True)

    def shell(self, text: str) -> None:
        """A command as one would type it."""
        self.line(f"[dim]$[/] {text}")

    def boot(self) -> Process:
        """Bring the devices up; the process that looks at them."""
        self.step("1  Boot a machine with accelerators that this host does not have")
        proc = self.kernel.process(comm="demo")
        for name in sorted(proc.listdir("/sys/bus/pci/devices")):
            link = f"/sys/bus/pci/devices/{name}/driver"
            self.line(f"{name}  driver {proc.realpath(link).rpartition('/')[2]}")
        self.line(f"kernel {self.kernel.profile.release}; the log (pykernel dmesg) has {self.kernel.log.seq} lines")
        return proc

    def configure(self, proc: Process) -> None:
        """Make wq0.0 a dedicated user queue: by accel-config if it is here and can run, else by the same stores."""
        from pykernel.tools.dsa import BUS, settings

        tool = shutil.which("accel-config")
        named = "driver_name" in proc.listdir(f"{BUS}/devices/{WQ}")
        if tool is not None and self._by_accel_config(tool, ["--driver-name=user"] if named else []):
            return

        self.step("2  Configure a dedicated queue through sysfs (with accel-config installed, that would do it)")
        for path, text in settings(proc, WQ):
            self.shell(f"echo {text} > {path}")
            proc.write_text(path, text + "\n")

    def _by_accel_config(self, tool: str, more: list[str]) -> bool:
        from pykernel.surfaces.process import RunError, run

        self.step(f"2  Configure a dedicated queue with {tool}, the real one, unmodified")
        for n, row in enumerate(ACCEL_CONFIG):
            argv = [*row, *(more if row[0] == "config-wq" else [])]
            self.shell(" ".join(("accel-config", *argv)))
            try:
                status = run(self.kernel, [tool, *argv])
            except RunError as e:
                if n == 0:
                    self.line(f"[yellow]not possible on this host ({e}); pykernel doctor tells more")
                    return False
                raise Fail(str(e), e.status) from e
            if status:
                raise Fail(f"accel-config {' '.join(argv)}: exit status {status}")
        return True

    def look(self, proc: Process) -> None:
        """What is configured now, from sysfs."""
        from pykernel.tools.dsa import BUS

        self.step("3  The driver has programmed the device and made a device node")
        attrs = ("state", "mode", "size", "type", "name")
        values = " ".join(f"{a}={proc.read_text(f'{BUS}/devices/{WQ}/{a}').strip()}" for a in attrs)
        node = proc.stat(NODE)
        self.line(f"{WQ}: {values}")
        self.line(f"{NODE}: character device {os.major(node.st_rdev)}:{os.minor(node.st_rdev)}")

    def copy(self, proc: Process) -> None:
        """Submit a MEMMOVE and check every byte."""
        from pykernel.tools.dsa import PORTAL_SIZE, Portal
        from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, DSA_OPCODE_MEMMOVE

        self.step("4  Copy memory with it: open, mmap, MOVDIR64B, wait for the completion record")
        with Portal(proc, NODE) as portal:
            src, dst = portal.buffer(TEXT), portal.place(len(TEXT))
            self.line(f"mmap({PORTAL_SIZE}, PROT_WRITE, MAP_SHARED, open({NODE})) = {portal.addr:#x}")
            self.line(f"movdir64b({portal.addr:#x}, MEMMOVE src={src:#x} dst={dst:#x} xfer_size={len(TEXT)})")
            record = portal.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=dst, xfer_size=len(TEXT))
            there = bytes(proc.mem.read(dst, len(TEXT)))
        self.line(f"completion record: status {record.status:#04x}, destination: {there!r}")
        if record.status != DSA_COMP_SUCCESS or there != TEXT:
            raise Fail("the copy went wrong: this is a bug in pykernel")
        self.line(f"[green]all {len(TEXT)} bytes are there")

    def paste(self) -> None:
        """The same as a test."""
        from rich.syntax import Syntax

        self.step("5  The same as a test: paste it into test_demo.py and run pytest")
        if self.say.is_terminal:
            self.say.print(Syntax(PYTEST, "python", background_color="default"))
        else:
            self.say.print(PYTEST, markup=False, soft_wrap=True)

    def run(self) -> None:
        """The whole tour."""
        proc = self.boot()
        self.configure(proc)
        self.look(proc)
        self.copy(proc)
        self.paste()
        proc.exit()


def tour(profile: str) -> None:
    """Configure a work queue, copy memory with it, and show how to test that."""
    from rich.console import Console

    from pykernel.tools.options import Setup

    Demo(Setup("dsa", profile).boot(clock="monotonic"), Console(highlight=False)).run()
