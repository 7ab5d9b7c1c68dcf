"""
vfio_mig_get_next_state(): the way of a device from one migration state to another (drivers/vfio/vfio_main.c).

The tables are the kernel's documentation of the arcs: with all optional states, and the ways that it lists.
"""

from __future__ import annotations

from errno import EINVAL
from itertools import product

import pytest
from errnos import errno_of

from pykernel.base.core import Device
from pykernel.machine import Machine
from pykernel.start import boot
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import VfioDevice, vfio_mig_get_next_state

STATES = {
    "ERROR": v.VFIO_DEVICE_STATE_ERROR,
    "S": v.VFIO_DEVICE_STATE_STOP,
    "R": v.VFIO_DEVICE_STATE_RUNNING,
    "SC": v.VFIO_DEVICE_STATE_STOP_COPY,
    "RE": v.VFIO_DEVICE_STATE_RESUMING,
    "RP": v.VFIO_DEVICE_STATE_RUNNING_P2P,
    "PC": v.VFIO_DEVICE_STATE_PRE_COPY,
    "PCP": v.VFIO_DEVICE_STATE_PRE_COPY_P2P,
}
COLUMNS = ("S", "R", "PC", "PCP", "SC", "RE", "RP")
# from: the next step to each column; X is EINVAL
TABLE = {
    "S": "S RP RP RP SC RE RP",
    "R": "RP R PC RP RP RP RP",
    "PC": "R R PC PCP PCP R R",
    "PCP": "RP RP PC PCP SC RP RP",
    "SC": "S S X X SC S S",
    "RE": "S S S S S RE S",
    "RP": "S R R PCP S S RP",
    "ERROR": "X X X X X X X",
}
FIRST = [(a, b, step) for a, row in TABLE.items() for b, step in zip(COLUMNS, row.split(), strict=True)]
STOP_COPY, P2P, PRE_COPY = v.VFIO_MIGRATION_STOP_COPY, v.VFIO_MIGRATION_P2P, v.VFIO_MIGRATION_PRE_COPY

# the combination transitions that drivers/vfio/vfio_main.c lists, by what the device has
WAYS = {
    STOP_COPY | P2P: """
        RE S RP | RE S RP R | RE S SC | R RP S | R RP S RE | R RP S SC | RP S RE | RP S SC | S RP R
        SC S RE | SC S RP | SC S RP R""",
    STOP_COPY | P2P | PRE_COPY: """
        PC PCP SC | PC R RP | PC R RP S | PC R RP S RE | PCP RP R | PCP RP S | PCP RP S RE | RE S RP | RE S RP PCP
        RE S RP R | RE S RP R PC | RE S SC | R RP PCP | R RP S | R RP S RE | R RP S SC | RP R PC | RP S RE | RP S SC
        S RP PCP | S RP R | S RP R PC | SC S RE | SC S RP | SC S RP R""",
    # its words on devices without the optional states: RUNNING and STOP, PRE_COPY and STOP_COPY have arcs of their own
    STOP_COPY: "R S | S R | R S SC | R S RE | SC S R | RE S R",
    STOP_COPY | PRE_COPY: "R PC | PC R | PC SC | PC R S | S R PC | R S SC | SC S R",
}
WALKS = [
    (flags, way.split())
    for flags, text in WAYS.items()
    for way in text.replace("\n", "|").split("|")
    if way.strip()
]  # fmt: skip


@pytest.fixture(scope="module")
def devices():
    """profile, flags -> a device; no ioctl is made of it."""
    made = {}

    def make(profile, flags):
        if profile not in made:
            made[profile] = VfioDevice(Device(boot(Machine("bare"), profile=profile), "toy"))
        made[profile].migration_flags = flags
        return made[profile]

    return make


def step(vdev, a, b):
    """The name of the next state, or X."""
    if (failed := errno_of(vfio_mig_get_next_state, vdev, STATES[a], STATES[b])) == EINVAL:
        return "X"
    assert failed == 0
    found = vfio_mig_get_next_state(vdev, STATES[a], STATES[b])
    return next(name for name, state in STATES.items() if state == found)


@pytest.mark.parametrize(("a", "b", "then"), FIRST, ids=lambda x: x)
def test_the_first_step_with_all_states(devices, a, b, then):
    assert step(devices("linux-6.12", STOP_COPY | P2P | PRE_COPY), a, b) == then


@pytest.mark.parametrize(("a", "b", "then"), [r for r in FIRST if not {*r} & {"PC", "PCP"}], ids=lambda x: x)
def test_the_first_step_before_pre_copy_came(devices, a, b, then):
    assert step(devices("linux-6.1", STOP_COPY | P2P), a, b) == then


@pytest.mark.parametrize(("flags", "way"), WALKS, ids=lambda x: "-".join(x) if isinstance(x, list) else str(x))
def test_each_way_that_the_kernel_lists(devices, flags, way):
    vdev = devices("linux-6.12", flags)
    walked = [way[0]]
    while walked[-1] != way[-1]:
        walked.append(step(vdev, walked[-1], way[-1]))
    assert walked == way


@pytest.mark.parametrize("flags", range(8))
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
def test_no_step_is_a_state_that_the_device_has_not(devices, profile, flags):
    """Every walk ends: at its target, or with EINVAL at once."""
    vdev = devices(profile, flags)
    needs = {"RP": P2P, "PC": PRE_COPY, "PCP": P2P | PRE_COPY}
    has = {s for s in COLUMNS if flags & STOP_COPY and needs.get(s, 0) & ~flags == 0}
    if profile == "linux-6.1":
        has -= {"PC", "PCP"}
    for a, b in product(STATES, STATES):
        seen = [a]
        while seen[-1] != b and (then := step(vdev, seen[-1], b)) != "X":
            assert then in has
            assert then not in seen
            seen.append(then)
        if not {a, b} <= has or (a == "SC" and b in ("PC", "PCP")):
            assert seen == [a]


@pytest.mark.parametrize("number", [6, 7, 8, 0xFFFFFFFF])
def test_numbers_that_are_no_states(devices, number):
    """Linux 6.1 has six states, Linux 6.12 eight."""
    vdev = devices("linux-6.1", 7)
    assert errno_of(vfio_mig_get_next_state, vdev, v.VFIO_DEVICE_STATE_RUNNING, number) == EINVAL
    vdev = devices("linux-6.12", 7)
    wanted = 0 if number in (6, 7) else EINVAL
    assert errno_of(vfio_mig_get_next_state, vdev, v.VFIO_DEVICE_STATE_RUNNING, number) == wanted
