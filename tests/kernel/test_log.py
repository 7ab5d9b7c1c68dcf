"""dmesg: the ring, its listeners and its renderings."""

from __future__ import annotations

import json

from pykernel.log import CRIT, DEBUG, EMERG, ERR, INFO, NOTICE, WARNING, Dmesg


def make(size: int = 8192) -> Dmesg:
    return Dmesg(lambda: 1_234_567_890, size)


def test_human_is_dmesgs_format():
    """``[%5lu.%06lu] text`` with the width that dmesg(1) pads to."""
    log = make()
    log.printk(ERR, "bad\n", "pci", "+pci:0000:6a:01.0")
    log.printk(INFO, "")
    assert log.human() == "[    1.234567] bad\n[    1.234567] \n".replace("1.234567", "1.234568")


def test_one_newline_goes_and_more_stay():
    """kernel/printk/printk.c:vprintk_store() takes one from the end."""
    log = make()
    log.printk(INFO, "a\n\n")
    assert log.records[0].text == "a\n"


def test_the_oldest_fall_out():
    log = make(3)
    for n in range(5):
        log.printk(INFO, str(n))
    assert [(r.seq, r.text) for r in log.records] == [(2, "2"), (3, "3"), (4, "4")]
    assert [r.text for r in log.since(4)] == ["4"]


def test_json_has_a_line_a_record():
    log = make()
    log.printk(WARNING, "odd", "pci", "+pci:x")
    log.printk(INFO, "plain")
    rows = [json.loads(line) for line in log.json().splitlines()]
    assert rows[0] == {"time": 1.23456789, "level": "warning", "event": "odd", "subsystem": "pci", "device": "+pci:x"}
    assert rows[1] == {"time": 1.23456789, "level": "info", "event": "plain"}


def test_colours_for_every_level():
    log = make()
    for level in range(EMERG, DEBUG + 1):
        log.printk(level, f"level {level}")
    text = log.human(colors=True)
    assert all(f"level {n}" in text for n in range(8))
    assert "\x1b[" in text
    assert "\x1b[" not in log.human()


def test_listeners_hear_and_may_leave_while_they_do():
    log, heard = make(), []

    def once(record):
        heard.append(record.text)
        log.listeners.remove(once)

    log.listeners += [once, lambda r: heard.append(r.level)]
    log.printk(NOTICE, "x")
    log.printk(CRIT, "y")
    assert heard == ["x", NOTICE, CRIT]


def test_clear_marks():
    log = make()
    log.printk(INFO, "old")
    log.clear()
    assert (log.cleared, len(log.records)) == (1, 1)
