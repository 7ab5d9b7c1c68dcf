"""Fault injection: the same calls fail in every run, and none when nothing was asked for."""

import re
from errno import EFAULT, ENOMEM
from pathlib import Path

import pytest

import pykernel
from pykernel.lib.fault_inject import KINDS, FaultInjector


def answers(faults: FaultInjector, n: int, kind: str = "alloc", where: str = "x") -> str:
    return "".join("F" if faults.should_fail(kind, where) else "." for _ in range(n))


# nth, every, times -> which of ten calls fail
SCHEDULES = [
    (1, 0, -1, "F........."),
    (3, 0, -1, "..F......."),
    (1, 1, -1, "FFFFFFFFFF"),
    (2, 3, -1, ".F..F..F.."),
    (1, 2, 2, "F.F......."),
    (4, 1, 3, "...FFF...."),
]


@pytest.mark.parametrize(("nth", "every", "times", "expected"), SCHEDULES)
def test_schedule(nth: int, every: int, times: int, expected: str) -> None:
    faults = FaultInjector()
    rule = faults.fail("alloc", nth=nth, every=every, times=times)
    assert answers(faults, 10) == expected
    assert (rule.seen, rule.fired) == (10, expected.count("F"))


def test_off_is_off() -> None:
    """Without a rule nothing fails, and ``active`` says so to callers who do not want to pay for the question."""
    faults = FaultInjector()
    assert not faults.active
    assert answers(faults, 5) == "....."
    faults.alloc("x")
    faults.copy("x")
    with faults.fail("alloc"):
        assert faults.active
    assert not faults.active


def test_only_calls_that_match_count() -> None:
    """Kind, and name with wildcards or by a function."""
    faults = FaultInjector()
    by_name = faults.fail("alloc", "idxd_*", nth=2)
    by_function = faults.fail("reg", lambda where: where.endswith("CMD"))
    assert answers(faults, 3, "copy", "idxd_wq") == "..."
    assert answers(faults, 3, "alloc", "mdev") == "..."
    assert answers(faults, 3, "alloc", "idxd_wq") == ".F."
    assert answers(faults, 2, "reg", "GENCFG") + answers(faults, 2, "reg", "CMD") == "..F."
    assert (by_name.seen, by_function.seen) == (3, 2)


def test_all_rules_count_a_call() -> None:
    """A call that one rule fails is still counted by the next."""
    faults = FaultInjector()
    faults.fail("alloc", nth=1)
    faults.fail("alloc", nth=2)
    assert answers(faults, 3) == "FF."


def test_errnos() -> None:
    faults = FaultInjector()
    faults.fail("alloc")
    faults.fail("copy")
    with pytest.raises(OSError, match=rf"\[Errno {ENOMEM}\]") as caught:
        faults.alloc("idxd_wq")
    assert caught.value.__notes__ == ["injected at idxd_wq"]
    with pytest.raises(OSError, match=rf"\[Errno {EFAULT}\]"):
        faults.copy("copy_from_user")


def test_cancel_and_clear() -> None:
    faults = FaultInjector()
    one, two = faults.fail("alloc", every=1), faults.fail("copy", every=1)
    one.cancel()
    one.cancel()
    assert answers(faults, 1) + answers(faults, 1, "copy") == ".F"
    faults.clear()
    assert not faults.active
    assert two.fired == 1


def test_sweep_of_error_paths() -> None:
    """Running with nth = 1, 2, 3, ... until the rule has not fired visits each call once."""

    def scenario(faults: FaultInjector) -> list[str]:
        done = []
        for where in ("a", "b", "c"):
            faults.alloc(where)
            done.append(where)
        return done

    faults, failed_after = FaultInjector(), []
    for nth in range(1, 10):
        with faults.fail("alloc", nth=nth) as rule:
            try:
                scenario(faults)
            except OSError:
                failed_after.append(nth)
        if not rule.fired:
            break
    assert failed_after == [1, 2, 3]


@pytest.mark.parametrize(
    ("args", "kw", "kind", "words"),
    [
        (("nope",), {}, ValueError, "no calls of kind 'nope' fail; known: alloc, copy, reg"),
        ((None,), {}, ValueError, "known: alloc, copy, reg"),
        (("alloc", 5), {}, TypeError, "where must be text or a function"),
        (("alloc",), {"nth": 0}, ValueError, "nth must be 1 or more, not 0"),
        (("alloc",), {"nth": -1}, ValueError, "nth must be 1 or more, not -1"),
        (("alloc",), {"nth": "x"}, TypeError, "nth must be an integer, not str"),
        (("alloc",), {"nth": 1.0}, TypeError, "nth must be an integer, not float"),
        (("alloc",), {"every": -1}, ValueError, "every must be 0 or more, not -1"),
        (("alloc",), {"every": None}, TypeError, "every must be an integer, not NoneType"),
        (("alloc",), {"times": -2}, ValueError, "times must be -1 or more, not -2"),
    ],
)
def test_a_rule_that_could_never_fire_is_refused(args, kw, kind, words):
    """When it is made, in words, and nothing of it stays."""
    faults = FaultInjector()
    with pytest.raises(kind, match=words):
        faults.fail(*args, **kw)
    assert not faults.active


def test_the_known_kinds_are_those_that_kernel_code_asks_for():
    """Each place in the source that asks names one of them, and each has a place."""
    root = Path(pykernel.__file__).resolve().parent
    asked = set()
    for path in [*root.rglob("*.py"), *(root / "drivers").resolve().rglob("*.py")]:
        text = path.read_text("utf-8")
        asked |= set(re.findall(r"faults\.should_fail\(\s*\"(\w+)\"", text))
        asked |= set(re.findall(r"\bfaults\.(alloc|copy)\(", text))
    assert asked == set(KINDS)
