"""
The experiment behind ``pykernel demo scalability`` counts right, and finds the limits that the hardware announces.

What is expected comes from the silicon's registers, or from a naive count of the events that the silicon told.
"""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel import boot
from pykernel.hw import make
from pykernel.hw.dsa.faults import PlantedFaults
from pykernel.pci.core import Pci
from pykernel.profile import PROFILES
from pykernel.tools.scalability import chart, experiment
from pykernel.tools.scalability.client import DEPTH, Client, Wrong
from pykernel.tools.scalability.experiment import jain, run
from pykernel.tools.scalability.kinds import DSA, KINDS, VFS, Shared
from pykernel.tools.scalability.watch import Watch

WQCAP = 0x20  # of BAR 0
SRIOV, TOTAL_VFS = 0x10, 0x0E  # extended capability; PCIe 9.3.3.5
DEDICATED, SHARED = ("vf", "1dwq"), ("swq", "1swq")


@pytest.fixture
def events(monkeypatch):
    """What the silicon told, of the last run."""
    told = []

    class Recording(Watch):
        def _event(self, event):
            if event.name.startswith("dsa_"):
                told.append(event)
            super()._event(event)

    def start(kernel):
        told.clear()
        return Recording(kernel)

    monkeypatch.setattr(experiment, "Watch", start)
    return told


def wqcap():
    """Work queues and entries of the accelerator that nobody divided."""
    kernel = boot("vmm")
    kernel.up()
    value = kernel.sub(Pci).slots[DSA].function.mmio_read(0, WQCAP, 8)
    kernel.shutdown()
    return value >> 16 & 0xFF, value & 0xFFFF


# ---- the limits


def test_mediated_devices_with_a_queue_of_their_own_end_with_the_queues_of_wqcap():
    queues, entries = wqcap()

    row = run("1dwq", 12, seed=5)

    assert (queues, entries) == (8, 128)
    assert (row.served, row.refused, row.entries) == (queues, {"ENODEV": 12 - queues}, entries)


def test_virtual_functions_end_with_total_vfs():
    config = make("dsa", {"vfs": VFS}).config
    total = config.get(config.ext_caps[SRIOV] + TOTAL_VFS, 2)

    row = run("vf", total + 5, seed=5)

    assert (row.served, row.refused) == (total, {"EBUSY": 5})


def test_fewer_clients_than_virtual_functions_have_as_many():
    row = run("vf", 3, seed=5)

    assert (row.served, row.refused, row.entries) == (3, {}, 3 * 128 // VFS)


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_queue_takes_all(name):
    row = run(name, 40, seed=5)

    assert (row.served, row.refused, row.entries) == (40, {}, wqcap()[1])
    assert row.gave_up == 0
    assert row.least > 0


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", KINDS)
def test_every_kernel_serves_every_kind(name, profile):
    row = run(name, 2, seed=5, profile=profile, window_ms=5)

    assert row.served == 2


def test_the_smallest_dedicated_queue_holds_what_a_client_has_under_way():
    """So a posted store, which tells nobody that it was dropped, is never dropped."""
    assert DEPTH <= 128 // VFS


# ---- the counts


def model(events, entries):
    """A naive count: accepted, refused, done; the most and the mean of what arrivals left in all queues together."""
    waiting, refused, accepted, done, left = Counter(), 0, 0, 0, []
    for event in events:
        fields = event.fields
        queue = fields["device"], fields["wq"]
        if event.name == "dsa_complete":
            assert fields["status"] == 1
            waiting[queue] -= 1
            done += 1
        elif event.name == "dsa_enqueue" and fields["accepted"]:
            waiting[queue] += 1
            accepted += 1
            assert waiting[queue] == fields["occupancy"] <= fields["room"]
        elif event.name == "dsa_enqueue":
            refused += 1
            assert waiting[queue] == fields["occupancy"] >= fields["room"]
        if event.name == "dsa_enqueue":
            left.append(sum(waiting.values()))
        assert 0 <= sum(waiting.values()) <= entries
    assert not +waiting
    return accepted, refused, done, max(left), Fraction(sum(left), len(left))


@pytest.mark.parametrize(
    ("name", "clients"), [*((name, n) for name in KINDS for n in (1, 30)), ("swq", 300), ("1swq", 90)]
)
def test_counts_are_those_of_a_naive_model(events, name, clients):
    """Accepted is done, retries are refusals, nothing is lost, and no queue ever holds more than it has room for."""
    row = run(name, clients, seed=7, window_ms=8)

    *counts, mean = model(events, row.entries)
    assert counts == [row.accepted, row.retries, row.done, row.most]
    assert row.mean == pytest.approx(float(mean))
    assert row.accepted == row.done > 0
    assert row.served + sum(row.refused.values()) == row.clients


def test_a_limited_portal_never_fills_a_queue_above_its_threshold(events, monkeypatch):
    monkeypatch.setattr(Shared, "threshold", 24)

    row = run("swq", 150, seed=7, window_ms=8)

    assert row.entries == 128
    assert row.largest == row.most == 24
    assert row.retries > 0
    assert model(events, 24)[1] == row.retries


def test_retries_of_a_client_are_bounded(monkeypatch):
    """A queue that never takes anything: the client gives up, and has told how often it tried."""

    def work(self, until):
        assert self._send(self.slots[0]) is None
        self.portal.close()
        self.proc.exit()

    monkeypatch.setattr(Client, "work", work)
    monkeypatch.setattr("pykernel.hw.dsa.queue.WorkQueue.submit_deferrable", lambda self, raw, **kw: False)

    row = run("swq", 2, seed=1)

    assert (row.accepted, row.done, row.gave_up, row.retries) == (0, 0, 2, 2 * 64)
    assert row.fairness == row.retried == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_seed_decides_everything_but_the_times(name):
    assert run(name, 20, seed=11) == run(name, 20, seed=11)


def test_another_seed_is_another_experiment():
    assert run("swq", 20, seed=11) != run("swq", 20, seed=12)


def test_a_device_that_copies_wrong_is_told(monkeypatch):
    prepare = Shared.prepare

    def broken(kind):
        prepare(kind)
        silicon = kind.host.sub(Pci).slots[DSA].function
        silicon.faults = PlantedFaults(({"kind": "fail_operation", "opcode": 3, "status": 0x13, "times": 1},))

    monkeypatch.setattr(Shared, "prepare", broken)
    with pytest.raises(Wrong, match="completion status 0x13"):
        run("swq", 5, seed=1)


# ---- Jain's index


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_jains_index_is_its_formula_in_fractions(shares):
    squares = sum(Fraction(x) ** 2 for x in shares)
    expected = Fraction(sum(shares)) ** 2 / (len(shares) * squares) if squares else 0

    assert jain(shares) == pytest.approx(float(expected))


def test_jains_index_of_the_paper():
    """Jain, Chiu, Hawe, DEC-TR-301: 1 if all have the same; k/n if k of n share all."""
    assert jain([3, 3, 3]) == 1
    assert jain([1] * 8 + [0] * 992) == pytest.approx(0.008)
    assert jain([]) == jain([0, 0]) == 0


# ---- what is shown


def test_json_has_a_row_for_each_kind_and_number(pykernel):
    done = pykernel("demo", "scalability", "--clients", "2,1", "--kinds", "vf,swq", "--seed", "9", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["kind"], r["clients"], r["seed"]) for r in rows] == [(k, n, 9) for k in ("vf", "swq") for n in (1, 2)]
    assert all(r["accepted"] == r["done"] and r["setup_ms"] > 0 for r in rows)


def test_table_bars_and_findings_are_printed_with_the_seed(pykernel):
    done = pykernel("demo", "scalability", "--clients", "10", "--kinds", "1dwq,swq")

    assert done.returncode == 0, done.stderr
    assert "10 to 10 clients, seed 1" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:12])) < 120
    assert "of 10 clients 8 are served, the others are refused (2 with ENODEV)" in done.stdout
    assert "█" * 32 + " " * 9 + "8\n" in done.stdout
    assert "Not shown: bandwidth" in done.stdout


@pytest.mark.parametrize("text", ["0", "", "1,,2", "10001", "ten"])
def test_numbers_that_are_none_are_named(pykernel, text):
    done = pykernel("demo", "scalability", "--clients", text)

    assert done.returncode == 2
    assert repr(text) in done.stderr


def test_kinds_that_are_none_are_named(pykernel):
    done = pykernel("demo", "scalability", "--kinds", "swq,pf")

    assert done.returncode == 2
    assert "'pf': there are vf, 1dwq, swq, 1swq" in done.stderr


@pytest.mark.parametrize(("served", "expected"), [(1, "█"), (Fraction(1, 2), "▌"), (0, ""), (Fraction(1, 1000), "▏")])
def test_a_bar_is_as_long_as_its_part_and_shows_the_smallest(monkeypatch, served, expected):
    monkeypatch.setattr(chart, "WIDTH", 1)

    assert chart._bar(served) == expected.ljust(1)


def test_the_figure_is_an_image_of_the_kind_that_its_name_says(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [run(name, n, seed=1, window_ms=3) for name in ("vf", "swq") for n in (1, 3)]

    chart.plot(rows, str(tmp_path / "a.png"))
    chart.plot(rows, str(tmp_path / "a.svg"))

    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()[:1000]


def test_without_matplotlib_nothing_runs_before_that_is_said(pykernel, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError")

    done = pykernel("demo", "scalability", "--plot", str(tmp_path / "a.png"), PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "pip install 'pykernel-mock[bench]'" in done.stderr
