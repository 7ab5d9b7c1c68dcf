"""``pykernel doctor``."""

from __future__ import annotations

import json

import pytest

from pykernel.surfaces.process.doctor import PROBES, Finding
from pykernel.tools.doctor import CURES, NEEDED, ONE_OF, verdict


def findings(*no: str) -> list[Finding]:
    return [Finding(p.what, p.what not in no, "", p.then) for p in PROBES]


@pytest.mark.parametrize(
    ("no", "lacking"),
    [
        ((), ""),
        (("privilege",), ""),
        (("user namespaces", "ENQCMD", "ptrace"), ""),
        (("privilege", "user namespaces"), "privilege or user namespaces"),
        (("/dev/fuse", "FUSE mount"), "/dev/fuse, FUSE mount"),
    ],
    ids=["all", "unprivileged", "root", "neither", "no fuse"],
)
def test_verdict(no, lacking):
    assert verdict(findings(*no)) == lacking


def test_the_tables_name_probes_that_there_are():
    assert {*CURES, *NEEDED, *ONE_OF} <= {p.what for p in PROBES}


def test_doctor_says_yes_where_a_program_runs(pykernel):
    """The exit status is a promise about `pykernel run`."""
    ran = pykernel("run", "--", "true").returncode == 0
    done = pykernel("doctor")

    assert (done.returncode == 0) == ran
    assert ("pykernel run works here" in done.stdout) == ran


def test_doctor_json_has_a_row_for_every_probe(pykernel):
    rows = [json.loads(line) for line in pykernel("doctor", "--json").stdout.splitlines()]

    assert [row["what"] for row in rows] == [p.what for p in PROBES]
