"""``kernel_faults.each()``: every allocation of a body fails once."""

from __future__ import annotations

FAULTS = """
    import pytest
    from errno import ENOMEM, ENOSPC

    pytestmark = pytest.mark.machine("dsa")
    ADDRESS = "0000:6a:01.0"
    DRIVER = "/sys/bus/pci/drivers/idxd"

    def test_each_fails_once(kernel, kernel_faults):
        turns, failed = [], []
        for fault in kernel_faults.each("alloc", "copy"):
            try:
                for place in ("a", "b", "c"):
                    kernel.faults.alloc(place)
                kernel.faults.copy("d")
            except OSError as e:
                failed.append((fault.kind, fault.failed, e.errno))
            turns.append((fault.kind, fault.nth, fault.fired))
        assert failed == [("alloc", ["a"], 12), ("alloc", ["b"], 12), ("alloc", ["c"], 12), ("copy", ["d"], 14)]
        assert turns[:4] == [("alloc", 1, 1), ("alloc", 2, 1), ("alloc", 3, 1), ("alloc", 4, 0)]
        assert turns[4:] == [("copy", 1, 1), ("copy", 2, 0)]
        assert not kernel.faults.active

    def test_where(kernel, kernel_faults):
        turns = 0
        for fault in kernel_faults.each("alloc", where="b*"):
            turns += 1
            try:
                kernel.faults.alloc("a")
                kernel.faults.alloc("b1")
            except OSError:
                assert fault.failed == ["b1"]
        assert turns == 2

    @pytest.mark.profile("linux-6.1", "linux-6.12")
    def test_probe_of_the_driver(kernel, kernel_process, kernel_faults):
        "A probe that fails gives back all that it took, whichever allocation fails."
        kernel.up()
        p, turns = kernel_process, 0
        for fault in kernel_faults.each("alloc"):
            turns += 1
            p.write_text(f"{DRIVER}/unbind", ADDRESS)
            try:
                p.write_text(f"{DRIVER}/bind", ADDRESS)
            except OSError as e:
                assert e.errno in (ENOMEM, ENOSPC), fault
                fault.cancel()
                p.write_text(f"{DRIVER}/bind", ADDRESS)
        assert turns > 3

    def test_a_leak_names_the_call(kernel, kernel_process, kernel_faults):
        def body():
            fd = kernel_process.open("/dev/zero")
            kernel.faults.alloc("after_open")
            kernel_process.close(fd)
        for fault in kernel_faults.each("alloc", where="after_*"):
            try:
                body()
            except OSError:
                pass

    def test_an_oops_names_the_call(kernel, kernel_faults):
        for fault in kernel_faults.each("alloc"):
            try:
                kernel.faults.alloc("a")
            except OSError as e:
                kernel.oops(KeyError("handler"))

    def test_a_break_ends_it(kernel, kernel_faults):
        for fault in kernel_faults.each("alloc"):
            break
        kernel.faults.alloc("a")

    def test_an_exception_ends_it(kernel, kernel_faults):
        with pytest.raises(OSError):
            for fault in kernel_faults.each("alloc"):
                kernel.faults.alloc("a")
        import gc
        gc.collect()
        kernel.faults.alloc("a")

    def test_devices_are_up_before_the_first_fault(kernel, kernel_process, kernel_faults):
        "What fails is a call of the body, never one of the boot."
        assert kernel.is_up
        for fault in kernel_faults.each():
            try:
                kernel_process.read_text("/sys/bus/dsa/devices/wq0.0/state")
            except OSError:
                pass
        assert kernel_process.read_text("/sys/bus/dsa/devices/wq0.0/state") == "disabled\\n"

    def test_unknown_kind(kernel_faults):
        with pytest.raises(ValueError, match="no calls of kind 'dma' fail; known: alloc, copy, reg"):
            next(kernel_faults.each("dma"))
"""


def test_faults(suite):
    run = suite(FAULTS)
    leak, oops = run.cases.pop("test_a_leak_names_the_call"), run.cases.pop("test_an_oops_names_the_call")
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    assert leak.outcome == oops.outcome == "failed"
    assert "not given back when alloc number 1 (after_open) failed:\n" in leak.text
    assert "descriptor 0 of test (pid 1): /dev/zero, taken at " in leak.text
    assert "the kernel had an oops when alloc number 1 (a) failed: KeyError('handler')" in oops.text
