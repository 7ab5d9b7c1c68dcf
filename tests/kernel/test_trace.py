"""The trace: off at no cost, in order, and safe from its listeners."""

from __future__ import annotations

from pykernel.trace import Event, Trace


def make() -> Trace:
    return Trace(lambda: 1500, lambda: "me-1")


def test_false_while_nobody_listens():
    t = make()
    assert not t
    t("dropped", x=1)
    events = t.record()
    assert t
    t("kept", x=1)
    assert [e.name for e in events] == ["kept"]
    assert list(t) == t.listeners


def test_a_listener_that_raises_is_removed_and_reported():
    t = make()

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    t.listeners.append(broken)
    events = t.record()
    t("a")
    t("b")
    assert [e.name for e in events] == ["a", "b"]
    assert [type(e) for e in t.broken] == [ZeroDivisionError]


def test_text_has_time_task_and_fields():
    t = make()
    events = t.record()
    t("mmio_write", bar=0, off=0x98, value="x")
    assert str(events[0]) == "[    0.000002]             me-1 mmio_write: bar=0 off=0x98 value=x"
