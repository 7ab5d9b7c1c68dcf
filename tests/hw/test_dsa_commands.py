"""Every status a command can end with, in the order in which the checks are made, and what success changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pykernel.hw.dsa.bench import DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C

Setup = Callable[[DsaBench], None]


def nothing(b: DsaBench) -> None:
    pass


def device_on(b: DsaBench) -> None:
    b.set_wq(0)
    b.set_group(0, wqs=[0], engines=[0])
    assert b.command(C.ENABLE_DEV) == 0


def wq_on(b: DsaBench) -> None:
    b.up([0])


def halted(b: DsaBench) -> None:
    b.function.halt(0)


def config(off: int, size: int, value: int) -> Setup:
    return lambda b: b.function.config_write(off, size, value)


def group(n: int, wqs: list[int], engines: list[int], allowed: int = 96) -> Setup:
    return lambda b: b.set_group(n, wqs=wqs, engines=engines, allowed=allowed)


def both(*setups: Setup) -> Setup:
    def run(b: DsaBench) -> None:
        for setup in setups:
            setup(b)

    return run


def sizes(*each: int) -> Setup:
    def run(b: DsaBench) -> None:
        for n, size in enumerate(each):
            b.wr(b.wqcfg(n, 0), size)

    return run


def reserved(n: int, count: int) -> Setup:
    return lambda b: b.wr(0x300 + 64 * n + 40, count << 8 | 96 << 20, 8)


def wq(**fields: object) -> Setup:
    """Device on, and WQ 0 with these fields instead of good ones."""

    def run(b: DsaBench) -> None:
        b.set_wq(0, **fields)  # type: ignore[arg-type]
        b.set_group(0, wqs=[0], engines=[0])
        assert b.command(C.ENABLE_DEV) == 0

    return run


def pasid_on(b: DsaBench) -> None:
    b.enable_pasid()


def occupancy_int(handle: int) -> Setup:
    def run(b: DsaBench) -> None:
        b.wr(b.wqcfg(0, 4), handle)
        b.wr(b.wqcfg(0, 5), 1 << 16)

    return run


def no_bof(b: DsaBench) -> None:
    b.wr(b.wqcfg(0, 2), b.rd(b.wqcfg(0, 2)) | 4)


ROWS: list[tuple[str, dict[str, object], Setup, int, int, int]] = [
    # name, options, setup, command, operand, CMDSTS
    ("command-0", {}, nothing, 0, 0, 0x01),
    ("command-15", {}, nothing, 15, 0, 0x01),
    ("command-31", {}, nothing, 31, 0, 0x01),
    ("halted", {}, halted, C.ENABLE_DEV, 0, 0x03),
    ("halted-unknown", {}, halted, 31, 0, 0x03),
    ("halted-reset", {}, halted, C.RESET_DEV, 0, 0x00),
    *((f"reserved-{number}", {}, nothing, number, 1, 0x04) for number in range(1, 6)),
    # enable device
    ("dev-ok-empty", {}, nothing, C.ENABLE_DEV, 0, 0x00),
    ("dev-ok", {}, group(0, [0], [0]), C.ENABLE_DEV, 0, 0x00),
    ("dev-twice", {}, device_on, C.ENABLE_DEV, 0, 0x10),
    ("dev-no-master", {}, config(4, 2, 2), C.ENABLE_DEV, 0, 0x12),
    ("dev-pri-without-ats", {}, config(0x114, 2, 1), C.ENABLE_DEV, 0, 0x13),
    ("dev-pri-and-ats", {}, both(config(0x114, 2, 1), config(0x106, 2, 0x8000)), C.ENABLE_DEV, 0, 0x00),
    ("dev-sizes-129", {}, sizes(64, 65), C.ENABLE_DEV, 0, 0x14),
    ("dev-sizes-128", {}, sizes(64, 64), C.ENABLE_DEV, 0, 0x00),
    ("dev-wq-no-engine", {}, group(0, [0], []), C.ENABLE_DEV, 0, 0x15),
    ("dev-engine-no-wq", {}, group(1, [], [1]), C.ENABLE_DEV, 0, 0x15),
    ("dev-wq-in-two", {}, both(group(0, [0], [0]), group(1, [0], [1])), C.ENABLE_DEV, 0, 0x16),
    ("dev-wq-8", {}, group(0, [8], [0]), C.ENABLE_DEV, 0, 0x16),
    ("dev-engine-in-two", {}, both(group(0, [0], [0]), group(1, [1], [0])), C.ENABLE_DEV, 0, 0x17),
    ("dev-engine-4", {}, group(0, [0], [4]), C.ENABLE_DEV, 0, 0x17),
    ("dev-allowed-few", {}, group(0, [0], [0, 1], 7), C.ENABLE_DEV, 0, 0x18),
    ("dev-allowed-least", {}, group(0, [0], [0, 1], 8), C.ENABLE_DEV, 0, 0x00),
    ("dev-allowed-many", {}, group(0, [0], [0], 97), C.ENABLE_DEV, 0, 0x18),
    ("dev-reserved-many", {}, both(reserved(0, 96), reserved(1, 1)), C.ENABLE_DEV, 0, 0x18),
    ("dev-reserved-all", {}, both(reserved(0, 95), reserved(1, 1)), C.ENABLE_DEV, 0, 0x00),
    ("dev-iax-no-buffers", {"preset": "iax"}, group(0, [0], [0], 0), C.ENABLE_DEV, 0, 0x00),
    ("dev-order-master-first", {}, both(sizes(200), config(4, 2, 2)), C.ENABLE_DEV, 0, 0x12),
    # disable, drain, abort device
    ("disable-off", {}, nothing, C.DISABLE_DEV, 0, 0x31),
    ("disable-on", {}, device_on, C.DISABLE_DEV, 0, 0x00),
    ("drain-all-off", {}, nothing, C.DRAIN_ALL, 0, 0x31),
    ("drain-all-on", {}, device_on, C.DRAIN_ALL, 0, 0x00),
    ("abort-all-off", {}, nothing, C.ABORT_ALL, 0, 0x31),
    ("abort-all-on", {}, device_on, C.ABORT_ALL, 0, 0x00),
    # enable WQ
    ("wq-ok", {}, device_on, C.ENABLE_WQ, 0, 0x00),
    ("wq-8", {}, device_on, C.ENABLE_WQ, 8, 0x02),
    ("wq-big", {}, device_on, C.ENABLE_WQ, 0xFFFFF, 0x02),
    ("wq-device-off", {}, nothing, C.ENABLE_WQ, 0, 0x20),
    ("wq-twice", {}, wq_on, C.ENABLE_WQ, 0, 0x21),
    ("wq-size-0", {}, wq(size=0), C.ENABLE_WQ, 0, 0x22),
    ("wq-priority-0", {}, wq(priority=0), C.ENABLE_WQ, 0, 0x23),
    ("wq-no-dedicated", {"dedicated_mode": False}, wq(), C.ENABLE_WQ, 0, 0x24),
    ("wq-no-shared", {"shared_mode": False}, wq(dedicated=False), C.ENABLE_WQ, 0, 0x24),
    ("wq-bof", {}, wq(bof=True), C.ENABLE_WQ, 0, 0x00),
    ("wq-no-bof", {"block_on_fault": False}, wq(bof=True), C.ENABLE_WQ, 0, 0x25),
    ("wq-pasid-off", {}, wq(pasid=5), C.ENABLE_WQ, 0, 0x26),
    ("wq-pasid-on", {}, both(pasid_on, wq(pasid=5)), C.ENABLE_WQ, 0, 0x00),
    ("wq-shared-no-pasid", {}, both(pasid_on, wq(dedicated=False)), C.ENABLE_WQ, 0, 0x26),
    ("wq-shared", {}, both(pasid_on, wq(dedicated=False, pasid=5)), C.ENABLE_WQ, 0, 0x00),
    ("wq-batch", {}, wq(batch_shift=11), C.ENABLE_WQ, 0, 0x27),
    ("wq-xfer", {"max_transfer_shift": 20}, wq(xfer_shift=21), C.ENABLE_WQ, 0, 0x28),
    ("wq-priv", {}, both(lambda b: b.enable_pasid(priv=False), wq(pasid=5, priv=True)), C.ENABLE_WQ, 0, 0x2A),
    ("wq-priv-on", {}, both(pasid_on, wq(pasid=5, priv=True)), C.ENABLE_WQ, 0, 0x00),
    ("wq-occupancy-8", {}, both(device_on, occupancy_int(8)), C.ENABLE_WQ, 0, 0x00),
    ("uncertain-wq-occupancy-9", {}, both(device_on, occupancy_int(9)), C.ENABLE_WQ, 0, 0x2B),
    ("uncertain-wq-ats", {"wqcap": 0x3B_0000_0008_0080}, both(device_on, no_bof), C.ENABLE_WQ, 0, 0x2C),
    ("wq-order-size-first", {}, wq(size=0, priority=0, pasid=5), C.ENABLE_WQ, 0, 0x22),
    # sets of WQs
    ("disable-wq", {}, wq_on, C.DISABLE_WQ, 1, 0x00),
    ("disable-wq-off", {}, device_on, C.DISABLE_WQ, 1, 0x32),
    ("disable-wq-one-off", {}, wq_on, C.DISABLE_WQ, 3, 0x32),
    ("disable-wq-none", {}, wq_on, C.DISABLE_WQ, 0, 0x02),
    ("disable-wq-8", {}, wq_on, C.DISABLE_WQ, 1 << 8, 0x02),
    ("disable-wq-block-1", {}, wq_on, C.DISABLE_WQ, 1 << 16 | 1, 0x02),
    ("disable-wq-16", {"num_wqs": 17}, lambda b: b.up([16]), C.DISABLE_WQ, 1 << 16 | 1, 0x00),
    ("drain-wq", {}, wq_on, C.DRAIN_WQ, 1, 0x00),
    ("drain-wq-off", {}, nothing, C.DRAIN_WQ, 1, 0x32),
    ("abort-wq", {}, wq_on, C.ABORT_WQ, 1, 0x00),
    ("abort-wq-off", {}, device_on, C.ABORT_WQ, 1, 0x32),
    ("reset-wq", {}, wq_on, C.RESET_WQ, 1, 0x00),
    ("reset-wq-off", {}, nothing, C.RESET_WQ, 1, 0x00),
    ("reset-wq-none", {}, nothing, C.RESET_WQ, 0, 0x02),
    # PASIDs
    ("drain-pasid-off", {}, nothing, C.DRAIN_PASID, 5, 0x31),
    ("drain-pasid", {}, device_on, C.DRAIN_PASID, 5, 0x00),
    ("abort-pasid-off", {}, nothing, C.ABORT_PASID, 5, 0x31),
    ("abort-pasid", {}, device_on, C.ABORT_PASID, 5, 0x00),
    # interrupt handles
    ("request-int-not-announced", {}, nothing, C.REQUEST_INT, 1, 0x01),
    ("request-int-dsa2", {"preset": "dsa2"}, nothing, C.REQUEST_INT, 1, 0x01),
    ("request-int", {"cmdcap": 0x7FFE}, nothing, C.REQUEST_INT, 3, 0x300),
    ("request-int-9", {"cmdcap": 0x7FFE}, nothing, C.REQUEST_INT, 9, 0x41),
    ("request-int-ims", {"cmdcap": 0x7FFE}, nothing, C.REQUEST_INT, 1 << 16 | 17, 0x1100),
    ("request-int-ims-2048", {"cmdcap": 0x7FFE}, nothing, C.REQUEST_INT, 1 << 16 | 2048, 0x41),
    ("request-int-no-ims", {"cmdcap": 0x7FFE, "gencap": 0x40815F010F}, nothing, C.REQUEST_INT, 1 << 16 | 1, 0x41),
    ("release-int", {"cmdcap": 0x7FFE}, nothing, C.RELEASE_INT, 3, 0x00),
    ("release-int-9", {"cmdcap": 0x7FFE}, nothing, C.RELEASE_INT, 9, 0x41),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "setup", "command", "operand", "status"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_status(options: dict[str, object], setup: Setup, command: int, operand: int, status: int) -> None:
    b = DsaBench(options)
    setup(b)
    assert b.command(command, operand) == status


def states(b: DsaBench) -> list[int]:
    return [b.rd(0x90) & 3] + [b.rd(b.wqcfg(n, 6)) >> 30 for n in range(b.function.params.num_wqs)]


def test_states_follow_enable_and_disable() -> None:
    b = DsaBench({"num_wqs": 3})
    b.up([0, 2])
    assert states(b) == [1, 1, 0, 1]
    b.command(C.DISABLE_WQ, 1 << 2)
    assert states(b) == [1, 1, 0, 0]
    b.command(C.DISABLE_DEV)
    assert states(b) == [0, 0, 0, 0]


def test_reset_clears_configuration_but_not_config_space_or_the_msix_table() -> None:
    b = DsaBench()
    b.enable_msix()
    b.up([0])
    b.wr(0x88, 3)
    b.wr(0x200, 8)
    assert b.command(C.RESET_DEV) == 0
    assert [b.rd(off) for off in (0x88, 0x90, 0x98, 0x200, 0x300, 0x400, 0x418)] == [0] * 7
    assert (b.rd(0x2000), b.function.config_read(4, 2), b.rd(0x10, 8)) == (0xFEE00000, 6, 0x40915F010F)


def test_reset_wq_clears_its_configuration_and_keeps_the_size_while_the_device_is_on() -> None:
    b = DsaBench()
    b.up([0])
    b.command(C.RESET_WQ, 1)
    assert [b.rd(b.wqcfg(0, n)) for n in range(8)] == [16, 0, 0, 0, 0, 0, 0, 0]
    b.command(C.DISABLE_DEV)
    b.command(C.RESET_WQ, 1)
    assert b.rd(b.wqcfg(0, 0)) == 0


def test_flr_resets_everything() -> None:
    b = DsaBench()
    b.up([0])
    b.function.config_write(0x48, 2, 0x8000)
    assert b.function.config_read(4, 2) == 0
    b.function.config_write(4, 2, 6)
    assert (states(b)[:2], b.rd(b.wqcfg(0, 0))) == ([0, 0], 0)


def test_completion_interrupt_only_when_asked_for() -> None:
    b = DsaBench()
    b.enable_msix()
    b.command(C.ENABLE_DEV)
    assert (b.rd(0x98), b.messages) == (0, [])
    assert b.command(C.DISABLE_DEV, int_req=True) == 0
    assert (b.rd(0x98), b.messages) == (2, [(0xFEE00000, 0)])
    b.wr(0x98, 2)
    assert b.rd(0x98) == 0


@pytest.mark.parametrize("kind", [C.DRAIN_WQ, C.DISABLE_WQ, C.DRAIN_ALL, C.DISABLE_DEV])
def test_draining_commands_are_active_until_the_work_is_done(kind: C) -> None:
    """The work that was queued completes; only then does the command, with its interrupt."""
    b = DsaBench()
    b.enable_msix()
    b.up([0])
    for i in range(3):
        b.post(descriptor(0, completion=0x1000 + 32 * i))
    status = b.command(kind, 1 if kind in (C.DRAIN_WQ, C.DISABLE_WQ) else 0, int_req=True)
    assert (status, b.messages) == (1 << 31, [])
    b.run()
    assert [b.memory[0x1000 + 32 * i] for i in range(3)] == [1, 1, 1]
    assert (b.rd(0xA8), b.rd(0x98), b.messages) == (0, 2, [(0xFEE00000, 0)])


def test_a_wq_that_drains_to_be_disabled_takes_no_more_work() -> None:
    b = DsaBench()
    b.up([0])
    b.post(descriptor(0, completion=0x1000))
    b.command(C.DISABLE_WQ, 1)
    b.post(descriptor(0, completion=0x1020))
    b.run()
    assert (b.memory[0x1000], b.memory[0x1020], states(b)[:2]) == (1, 0, [1, 0])


def test_drain_pasid_waits_for_that_pasid_only() -> None:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], dedicated=False, pasid=1, threshold=8)
    assert b.enqcmd(descriptor(0, completion=0x1000, pasid=7))
    assert b.command(C.DRAIN_PASID, 8) == 0
    assert b.command(C.DRAIN_PASID, 7) == 1 << 31
    b.run()
    assert b.rd(0xA8) == 0


@pytest.mark.parametrize(("kind", "operand"), [(C.ABORT_WQ, 1), (C.ABORT_ALL, 0), (C.RESET_WQ, 1), (C.RESET_DEV, 0)])
def test_aborted_work_leaves_no_record(kind: C, operand: int) -> None:
    b = DsaBench()
    b.up([0])
    b.post(descriptor(0, completion=0x1000))
    assert b.command(kind, operand) == 0
    b.run()
    assert (b.memory[0x1000], b.rd(b.wqcfg(0, 6)) & 0xFFFF) == (0, 0)


def test_abort_pasid_takes_only_that_pasid() -> None:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], dedicated=False, pasid=1, threshold=8)
    for i, pasid in enumerate((7, 8, 7)):
        b.enqcmd(descriptor(0, completion=0x1000 + 32 * i, pasid=pasid))
    assert b.command(C.ABORT_PASID, 7) == 0
    b.run()
    assert [b.memory[0x1000 + 32 * i] for i in range(3)] == [0, 1, 0]


def test_uncertain_a_command_while_one_is_active_is_a_software_error() -> None:
    b = DsaBench()
    b.up([0])
    b.post(descriptor(0, completion=0x1000))
    b.command(C.DRAIN_WQ, 1)
    b.command(C.DISABLE_DEV)
    assert (b.rd(0xA8), b.rd(0xC0) & 0xFF0F, b.rd(0x98)) == (1 << 31, 0x5101, 1)
    b.run()
    assert (b.rd(0xA8), states(b)[0]) == (0, 1)


# ---------------------------------------------------------------------- faulty silicon
@pytest.mark.parametrize("reset_type", range(4))
def test_halt_shows_its_reset_type_and_interrupts(reset_type: int) -> None:
    b = DsaBench()
    b.enable_msix()
    b.function.halt(reset_type)
    assert (b.rd(0x90), b.rd(0x98), b.messages) == (3 | reset_type << 2, 0x10, [(0xFEE00000, 0)])


def test_halted_device_works_no_more() -> None:
    b = DsaBench()
    b.up([0])
    b.post(descriptor(0, completion=0x1000))
    b.function.halt(0)
    b.run()
    assert b.memory[0x1000] == 0


def test_the_next_command_can_be_made_to_fail_once() -> None:
    b = DsaBench()
    b.function.fail_command(0x11)
    assert [b.command(C.ENABLE_DEV), b.rd(0x90), b.command(C.ENABLE_DEV)] == [0x11, 0, 0]


def test_faults_can_be_declared() -> None:
    rows = [
        {"kind": "fail_command", "command": 1, "code": 0x14, "times": 2},
        {"kind": "halt_on_command", "command": 2, "reset_type": 1},
        {"kind": "fail_operation", "opcode": 3, "status": 0x20},
    ]
    b = DsaBench({"faults": rows})
    assert [b.command(C.ENABLE_DEV) for _ in range(2)] == [0x14, 0x14]
    b.up([0])
    for i in range(2):
        b.do(descriptor(3, completion=0x1000, src=0x2000, dst=0x3000, size=8))
        assert b.memory[0x1000] == (0x20, 1)[i]
    assert (b.command(C.DISABLE_DEV), b.rd(0x90)) == (0x03, 3 | 1 << 2)


def test_occupancy_and_state_can_be_set() -> None:
    b = DsaBench()
    b.up([0])
    b.function.set_occupancy(0, 9)
    assert b.rd(b.wqcfg(0, 6)) == 1 << 30 | 9
    b.function.set_gensts(2)
    assert b.rd(0x90) == 2
