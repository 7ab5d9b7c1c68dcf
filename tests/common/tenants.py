"""
Tenants of one accelerator - processes of the host and of virtual machines - and an oracle for what they may touch.

Every tenant owns pages with a pattern of its own. Whatever a tenant submits, the patterns of all others must stand
afterwards, and no pattern of another's may turn up in its own memory: :meth:`Tenants.check` compares.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from mmap import MAP_SHARED, PROT_WRITE
from typing import Any

from pykernel import boot
from pykernel.kernel import Kernel
from pykernel.machine import load, parse
from pykernel.mm.phys import PhysMem
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_hw_desc,
)

__all__ = ["MEMORY", "PAGE", "QUEUE", "Tenant", "Tenants", "host_with", "memmove"]

PAGE = 4096
MEMORY = 24 << 20
QUEUE = "/dev/dsa/wq0.0"
CANARIES = 2  # pages of each tenant that nobody names in a descriptor of its own
OPEN_PAGES = 4  # pages that the tenant itself may let the device write


def host_with(more: str = "", profile: str = "linux-6.1", **kw: Any) -> Kernel:
    """The host of virtual machines, with *more* in its ``[iommu]`` table."""
    return boot(replace(load("vmm"), iommu=parse(f"[iommu]\n{more}\n").iommu), profile, **kw)


def memmove(src: int, dst: int, size: int, record: int, *, flags: int = 0, first: int = 0) -> bytes:
    """A descriptor whose first four bytes are *first*, whoever looks at them."""
    made = dsa_hw_desc(
        flags=flags | IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
        opcode=DSA_OPCODE_MEMMOVE,
        completion_addr=record,
        src_addr=src,
        dst_addr=dst,
        xfer_size=size,
    )
    return first.to_bytes(4, "little") + bytes(made)[4:]


def secret(name: str) -> bytes:
    """A page that only *name* has; each of its 64-byte lines can be told from any other."""
    lines = [hashlib.sha512(f"{name} {n}".encode()).digest() for n in range(PAGE // 64)]
    return b"".join(lines)


class Tenant:
    """
    A process with the queue open, its secret pages and its open ones; made where its kernel's code runs.

    Attributes:
        base: the first of its pages; the secret ones come first.
    """

    def __init__(self, kernel: Any, name: str, *, path: str = QUEUE, shared: bool = True) -> None:
        self.name, self.shared = name, shared
        self.proc = kernel.process(comm=name[:15])
        self.fd = self.proc.open(path, os.O_RDWR)
        self.portal = self.proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, self.fd, 0)
        self.base = self.proc.mem.alloc((CANARIES + OPEN_PAGES) * PAGE, align=PAGE)
        self.record = self.proc.mem.alloc(PAGE, align=PAGE)
        self.secrets = [secret(f"{name}/{n}") for n in range(CANARIES)]
        for n, page in enumerate(self.secrets):
            self.proc.mem.write(self.base + n * PAGE, page)
        self.open = self.base + CANARIES * PAGE
        self.proc.mem.write(self.open, bytes(OPEN_PAGES * PAGE))
        self.proc.mem.write(self.record, bytes(PAGE))

    def fault_page(self) -> int:
        """A page that nobody has touched: the device has to ask for it."""
        return int(self.proc.mmap(0, PAGE, 3, 0x22))

    def submit(self, raw: bytes, tries: int = 8) -> bool:
        """ENQCMD, or MOVDIR64B to a dedicated queue; whether a shared one took it."""
        if not self.shared:
            self.proc.movdir64b(self.portal, raw)
            return True
        for _ in range(tries):
            if not self.proc.enqcmd(self.portal, raw):
                return True
            self.proc.poll([], 1)
        return False

    def stall(self) -> int:
        """Submit a copy to a page that is not there, blocking on the fault; the page."""
        page = self.fault_page()
        assert self.submit(memmove(self.open, page, 64, self.record, flags=IDXD_OP_FLAG_BOF))
        return page

    def wait(self, record: int = 0, ms: int = 60_000) -> int:
        """The status in *record*, 0: it never came."""
        for _ in range(ms):
            if status := self.proc.mem.read(record or self.record, 1)[0]:
                return int(status)
            self.proc.poll([], 1)
        return 0

    def copy(self, text: bytes) -> bytes:
        """An honest copy: what arrived."""
        dst = self.open + 2 * PAGE
        self.proc.mem.write(self.open, text)
        self.proc.mem.write(self.record, bytes(32))
        assert self.submit(memmove(self.open, dst, len(text), self.record), tries=2000)
        assert self.wait() == 1
        return bytes(self.proc.mem.read(dst, len(text)))

    def stands(self) -> bool:
        """Its secrets are what they were."""
        return all(self.proc.mem.read(self.base + n * PAGE, PAGE) == page for n, page in enumerate(self.secrets))

    def seen(self) -> bytes:
        """All that devices could write for it."""
        return bytes(self.proc.mem.read(self.open, OPEN_PAGES * PAGE) + self.proc.mem.read(self.record, PAGE))

    def memory(self) -> bytes:
        """All its pages."""
        return bytes(
            self.proc.mem.read(self.base, (CANARIES + OPEN_PAGES) * PAGE) + self.proc.mem.read(self.record, PAGE)
        )

    def close(self) -> None:
        """Give the queue back, and end."""
        self.proc.munmap(self.portal, PAGE)
        self.proc.close(self.fd)
        self.proc.exit()


class Tenants:
    """
    One host, *vms* machines with *each* processes and *here* of the host, all on one shared queue.

    Attributes:
        home: tenant -> its machine, None: the host.
        frames: pages of kernels, which no tenant may touch.
    """

    def __init__(
        self, vms: int = 2, each: int = 2, here: int = 2, *, host: Kernel | None = None, swq: int = 16, **wq: Any
    ) -> None:
        self.host = host or boot("vmm")
        self.root = self.host.process()
        prepare(self.root, shared=swq, dedicated=wq.pop("dedicated", 0), **wq)
        self.vms: list[Vmm] = []
        self.home: dict[Tenant, Vmm | None] = {}
        self.frames: list[tuple[PhysMem, int]] = []
        self._canary(self.host)
        for n in range(vms):
            self.machine(f"vm{n}", each)
        for n in range(here):
            self.admit(None, f"host-{n}")

    def machine(self, name: str, each: int = 1, **kw: Any) -> Vmm:
        """One more virtual machine."""
        vmm = Vmm(self.host, name=name, memory=MEMORY, **kw)
        vmm.run(lambda: enable(vmm.process()))
        self.vms.append(vmm)
        self._canary(vmm.guest.kernel)
        for n in range(each):
            self.admit(vmm, f"{name}-{n}", shared=kw.get("mdev", "1swq") == "1swq")
        return vmm

    def _canary(self, kernel: Kernel) -> None:
        """A page of *kernel*'s own that must stay as it is."""
        phys = kernel.sub(PhysMem)
        pa = phys.alloc_page()
        phys.write(pa, secret(f"kernel {len(self.frames)}"))
        self.frames.append((phys, pa))

    def admit(self, vmm: Vmm | None, name: str, **kw: Any) -> Tenant:
        """One more tenant."""
        kernel = self.host if vmm is None else vmm.guest.kernel
        made: Tenant = self.run(vmm, lambda: Tenant(kernel, name, **kw))
        self.home[made] = vmm
        return made

    def run(self, where: Vmm | None, fn: Any) -> Any:
        """Do *fn* as code of a machine, None: of the host."""
        if where is not None:
            return where.run(fn)
        thread = self.host.spawn(fn, "tenant")
        self.host.sched.idle_until(lambda: thread.done)
        if thread.error is not None:
            raise thread.error
        return thread.result

    def do(self, tenant: Tenant, fn: Any) -> Any:
        """Do *fn* as *tenant*."""
        return self.run(self.home[tenant], fn)

    def leave(self, tenant: Tenant) -> None:
        """*tenant* closes its queue and ends."""
        self.do(tenant, tenant.close)
        del self.home[tenant]

    def kill(self, vmm: Vmm) -> None:
        """A machine dies, and its tenants with it."""
        mine = vmm.guest.kernel.sub(PhysMem)
        self.frames = [(phys, pa) for phys, pa in self.frames if phys is not mine]
        vmm.kill()
        self.vms.remove(vmm)
        self.home = {t: where for t, where in self.home.items() if where is not vmm}

    def settle(self, ms: int = 1) -> None:
        """Let *ms* pass on the host's clock."""
        self.host.sched.idle_until(lambda: False, ms * 10**6)

    def picture(self, *but: Tenant, machine: Vmm | None = None) -> dict[str, bytes]:
        """All that tenants other than *but* have, and pages of kernels other than that of *machine*."""
        mine = None if machine is None else machine.guest.kernel.sub(PhysMem)
        found = {t.name: t.memory() for t in self.home if t not in but}
        rows = enumerate(self.frames)
        return found | {f"kernel {n}": bytes(phys.read(pa, PAGE)) for n, (phys, pa) in rows if phys is not mine}

    def check(self) -> None:
        """The oracle. Raises AssertionError: a secret was written, or read by another."""
        lines = {page[at : at + 64]: t for t in self.home for page in t.secrets for at in range(0, PAGE, 64)}
        for tenant in self.home:
            assert tenant.stands(), f"{tenant.name}: its secret was written"
            seen = tenant.seen()
            for line, owner in lines.items():
                # the middle of a line is enough to tell: copies need not be aligned
                assert owner is tenant or line[16:48] not in seen, f"{tenant.name} has a secret of {owner.name}"

    def end(self) -> None:
        """All leave, machines are switched off; the host has no oops, and nothing is left."""
        for tenant in list(self.home):
            self.leave(tenant)
        for phys, pa in self.frames:
            phys.free_later(pa)
        for vmm in self.vms:
            vmm.shutdown()
            assert vmm.guest.kernel.oopses == []
        self.root.exit()
        self.host.shutdown()
        assert self.host.oopses == []
