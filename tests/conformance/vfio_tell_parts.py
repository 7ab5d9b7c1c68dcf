"""Questions on what the kernel says of VFIO: uevents, log lines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial

import vfio_abi as abi
from probing import Probe, call, write_text
from subject import BUS, ID, OTHER
from vfio_client import Fds, Memory, Vfio, bound, client
from vfio_container_parts import device
from vfio_dma_parts import kernel_log

P = 4096


def uevents(q: Probe) -> None:
    """The messages of binding, opening, closing, unbinding; of a group's type."""
    v = Vfio(q)
    with v.host.uevents() as heard:

        def told(what: str, f: Callable[[], object]) -> None:
            heard()
            q.say(what, call(f))
            about = [m for m in heard() if "/wakeup/" not in m[0]]  # without ACPI's wakeup source
            for n, message in enumerate(about):
                text = [re.sub(r"^(SEQNUM|MAJOR)=\d+$", r"\1=N", field) for field in message]
                text = [re.sub(rf"\bvfio/{v.group_id}$", "vfio/GROUP", field) for field in text]
                q.say(f"{what}: message {n}", text)

        told("override", lambda: write_text(v.at("driver_override"), "vfio-pci"))
        told("bind", lambda: write_text(f"{OTHER}/bind", v.addr))
        held: list[Fds] = []
        told("open", lambda: held.append(Fds(v)))
        told("reset", lambda: abi.plain(held[0].device, abi.RESET))
        told("close", lambda: held[0].close())
        told("unbind", lambda: write_text(f"{OTHER}/unbind", v.addr))
        told("type", lambda: write_text(f"/sys/kernel/iommu_groups/{v.group_id}/type", "identity"))
        told("type back", lambda: write_text(f"/sys/kernel/iommu_groups/{v.group_id}/type", "auto"))
        told("clear", lambda: v.clear())
        told("new_id", lambda: write_text(f"{OTHER}/new_id", ID))
        told("remove_id", lambda: write_text(f"{OTHER}/remove_id", ID))
        told("uevent of the group", lambda: write_text(f"/sys/class/vfio/{v.group_id}/uevent", "change"))
        told(
            "uevent of the device",
            lambda: write_text(f"/sys/class/vfio-dev/{os.listdir(v.at('vfio-dev'))[0]}/uevent", "add"),
        )
        told("removal", lambda: write_text(v.at("remove"), "1"))
        told("rescan", lambda: write_text(f"{BUS}/rescan", "1"))
        v.release()


def messages(q: Probe) -> None:
    """The log's lines about VFIO, IOMMUs and the device."""
    v = Vfio(q)
    memory = Memory(8)
    with kernel_log() as log:

        def told(what: str, f: Callable[[], object]) -> None:
            log.clear()
            result = call(f)
            lines = [line for line in log.read() if re.search(rf"vfio|iommu|VFIO|RLIMIT|{v.addr}", line)]
            q.say(what, (result, lines) if lines else result)

        told("override", lambda: write_text(v.at("driver_override"), "vfio-pci"))
        told("bind", lambda: write_text(f"{OTHER}/bind", v.addr))
        group = f"/sys/kernel/iommu_groups/{v.group_id}"
        for kind in ("identity", "auto"):
            told(f"group's type {kind}, bound", partial(write_text, f"{group}/type", kind))
        held: list[Fds] = []
        told("open", lambda: held.append(Fds(v)))
        f = held[0]
        told("type, used", lambda: write_text(f"{group}/type", "identity"))
        told("memlock", lambda: v.host.in_child(lambda: abi.mapped(f.container, memory.address, 0, 4 * P), 65534, P))
        told("bad address", lambda: abi.mapped(f.container, 0, 0, P))
        told("no token", lambda: device(f.group, v.addr + " vf_token=12345678-1234-1234-1234-123456789abc"))
        told("bad option", lambda: device(f.group, v.addr + " x=1"))
        told("reset", lambda: abi.plain(f.device, abi.RESET))
        told("bus master off, on", lambda: [f.set_config(4, n, 2) for n in (3, 7, 3)])
        told("BAR written", lambda: f.set_config(0x10, 0, 4))
        told("close", f.close)
        told("unbind", lambda: write_text(f"{OTHER}/unbind", v.addr))
        told("type, unbound", lambda: write_text(f"{group}/type", "identity"))
        told("type back", lambda: write_text(f"{group}/type", "auto"))
        v.release()
    with bound(q) as v, kernel_log() as log, client(v) as f:
        log.clear()
        done: list[object] = []
        thread = v.host.meanwhile(lambda: done.append(call(write_text, f"{OTHER}/unbind", v.addr)))
        v.host.pause(1)
        q.say("unbind waits", [line for line in log.read() if "vfio" in line])
        v.host.pause(10.5)
        q.say("unbind waits on", [line for line in log.read() if "vfio" in line])
        f.shut("device")
        thread.join()
        q.say("unbound", (done, [line for line in log.read() if "vfio" in line]))
        f.shut("group")


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {"uevents of VFIO": uevents, "messages of VFIO": messages}
