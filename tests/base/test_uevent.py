"""Uevents: synthetic ones as user space writes them, their variables, the sequence number."""

from __future__ import annotations

import pytest

UUID = "12345678-1234-1234-1234-123456789abc"


@pytest.mark.parametrize(
    "action", ["add", "remove", "change", "move", "online", "offline", "bind", "unbind", "add\n", "change\0"]
)
def test_an_action_alone_is_sent_with_uuid_0(kernel, make, events, action):
    make("x.0")
    events.clear()
    p = kernel.process()
    assert p.write(p.open("/sys/devices/x.0/uevent", 1), action.encode()) == len(action)
    assert [(e["ACTION"], e["SYNTH_UUID"]) for e in events] == [(action.rstrip("\n\0"), "0")]


def test_arguments_come_before_the_devices_own_variables(kernel, make, events):
    """Recorded: "uevent <- 'change ... KEY=val B=2\\n'"."""
    make("x.0", type="gadget")
    events.clear()
    kernel.process().write_text("/sys/devices/x.0/uevent", f"change {UUID} KEY=val B=2\n")
    assert list(events[0].items())[:-1] == [
        ("ACTION", "change"),
        ("DEVPATH", "/devices/x.0"),
        ("SUBSYSTEM", "toy"),
        ("SYNTH_UUID", UUID),
        ("SYNTH_ARG_KEY", "val"),
        ("SYNTH_ARG_B", "2"),
        ("DEVTYPE", "gadget"),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\n", "unknown uevent action string"),
        ("junk", "unknown uevent action string"),
        ("ADD", "unknown uevent action string"),
        (" add", "unknown uevent action string"),
        ("change\n\n", "unknown uevent action string"),
        ("add ", "incorrect uevent action arguments"),
        ("change x", "incorrect uevent action arguments"),
        (f"change {UUID[:-1]}", "incorrect uevent action arguments"),
        (f"change {UUID}d", "incorrect uevent action arguments"),
        (f"change {UUID} ", "incorrect uevent action arguments"),
        (f"change {UUID} KEY", "incorrect uevent action arguments"),
        (f"change {UUID} KEY=", "incorrect uevent action arguments"),
        (f"change {UUID} =val", "incorrect uevent action arguments"),
        (f"change {UUID} K_Y=v", "incorrect uevent action arguments"),
        (f"change {UUID}  KEY=v", "incorrect uevent action arguments"),
    ],
)
def test_junk_is_einval_and_told(kernel, bus, events, text, why):
    """The texts of the recorded section "uevents", each EINVAL there."""
    with pytest.raises(OSError, match="Errno 22"):
        kernel.process().write_text("/sys/bus/toy/uevent", text)
    assert events == []
    assert (kernel.log.records[-1].level, kernel.log.records[-1].text) == (4, f"synth uevent: /bus/toy: {why}")


def test_unbind_has_no_modalias(kernel, make, driver, bus, events):
    """Recorded: "unbind: message 0"; lib/kobject_uevent.c:zap_modalias_env()."""
    bus.uevent = lambda _dev, env: env.update(MODALIAS="toy:x", OTHER="1")
    driver()
    make("x.0").unregister()
    assert [(e["ACTION"], "MODALIAS" in e, "OTHER" in e) for e in events if e["SUBSYSTEM"] == "toy"] == [
        ("add", True, True),
        ("bind", True, True),
        ("unbind", False, True),
        ("remove", True, True),
    ]


def test_sequence_numbers_rise_by_one(kernel, make, events):
    make("x.0")
    make("y.0")
    first = int(events[0]["SEQNUM"])
    assert [int(e["SEQNUM"]) for e in events] == list(range(first, first + len(events)))
    assert kernel.process().read_text("/sys/kernel/uevent_seqnum") == f"{events[-1]['SEQNUM']}\n"


def test_the_trace_sees_uevents(kernel, make):
    seen = kernel.trace.record()
    make("x.0")
    assert [(e.fields["action"], e.fields["devpath"]) for e in seen if e.name == "uevent"] == [("add", "/devices/x.0")]
