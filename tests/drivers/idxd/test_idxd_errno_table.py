"""Every row of errno_table.py, through a process's system calls."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Accel

TABLE = runpy.run_path(str(Path(__file__).with_name("errno_table.py")))
ROWS: tuple[Any, ...] = TABLE["ROWS"]
CASES = [(row, profile) for row in ROWS for profile in row.profiles]
OPTIONS: dict[str, dict[str, Any]] = {
    "fixed": {"preset": "fixed"},
    "v2": {"preset": "dsa2"},
    "override": {"preset": "dsa2", "args": "tc_override=1"},
}


def prepare(make: Callable[..., Accel], profile: str, state: str) -> Accel:
    """A machine in *state*."""
    one = make(profile, "iax" if state == "iax" else "dsa", **OPTIONS.get(state, {}))
    if state == "shared":
        one.set("wq0.0", size=16, mode="shared")
    elif state == "limit":
        one.set("dsa0", read_buffer_limit=10)
    elif state == "engines":
        one.set("engine0.0", group_id=0)
        one.set("engine0.1", group_id=0)
    elif state == "device":
        one.configure()
        assert one.bind("dsa0", "idxd") == 4
    elif state == "wq":
        one.up()
    return one


@pytest.mark.parametrize(
    ("row", "profile"), CASES, ids=lambda x: x if isinstance(x, str) else f"{x.attr}:{x.state}:{x.text[:24]!r}"
)
def test_store_answers_as_the_table_says(row: Any, profile: str, accel: Callable[..., Accel]) -> None:
    one = prepare(accel, profile, row.state)
    attr = row.attr.replace("dsa0", one.dev)

    answer = one.put(attr, row.text)

    if row.want.startswith("E") and "\n" not in row.want:
        assert answer == row.want.replace("EOPNOTSUPP", "ENOTSUP")
    else:
        assert answer == len(row.text)
        assert one.get(attr) == row.want


def test_every_writable_attribute_has_a_row(accel: Callable[..., Accel]) -> None:
    """The table forgets no store: each writable file of the newest kernel on the largest part has a row."""
    one = accel("linux-7.2", preset="dsa2")
    generic = {"uevent"}
    named = {row.attr for row in ROWS}

    for name in ("dsa0", "group0.0", "engine0.0", "wq0.0"):
        path = f"/sys/bus/dsa/devices/{name}"
        for attr in one.proc.listdir(path):
            mode = one.proc.stat(f"{path}/{attr}").st_mode
            if mode & 0o170000 == 0o100000 and mode & 0o200 and attr not in generic:
                assert f"{name}/{attr}" in named
