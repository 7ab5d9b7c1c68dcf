"""Extended page tables: the processor's walk by the manual (Intel SDM volume 3, 30.3), and KVM's entries in them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.mm.phys import PhysMem
from pykernel.virt.kvm.ept import Ept, EptMisconfig, EptViolation

R, W, X, LARGE, A, D = 1, 2, 4, 1 << 7, 1 << 8, 1 << 9
WB = 6 << 3
GPA = 0x1234_5678_9ABC  # entry 36 of the top, 209, 179 and 393 below
INDEX = {4: 36, 3: 209, 2: 179, 1: 393}


def tables(**entries: int) -> tuple[Ept, dict[int, int]]:
    """Tables with one way down; *entries* (l4 to l1) replace its own. Where the entry of each level is, too."""
    ept = Ept(PhysMem(None, 16 << 20))
    frame = {level: ept.phys.alloc_page() for level in (3, 2, 1)}
    at = {4: ept.root + 8 * INDEX[4]} | {level: frame[level] + 8 * INDEX[level] for level in frame}
    for level in (4, 3, 2):
        ept.words[at[level] >> 3] = entries.get(f"l{level}", frame[level - 1] | R | W | X)
    ept.words[at[1] >> 3] = entries.get("l1", 0x777000 | R | W | X | WB)
    return ept, at


def test_a_walk_finds_the_page_and_sets_accessed_and_dirty() -> None:
    ept, at = tables()
    assert ept.walk(GPA, write=False) == (0x777ABC, R | W | X, 1)
    assert [ept.words[at[level] >> 3] & (A | D) for level in (4, 3, 2, 1)] == [A, A, A, A]
    ept.walk(GPA, write=True)
    assert [ept.words[at[level] >> 3] & (A | D) for level in (4, 3, 2, 1)] == [A, A, A, A | D]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"l3": 0x40000000 | R | W | X | WB | LARGE}, (0x40000000 | GPA & 0x3FFFFFFF, R | W | X, 3)),
        ({"l2": 0x600000 | R | WB | LARGE}, (0x600000 | GPA & 0x1FFFFF, R, 2)),
        ({"l1": 0x777000 | R}, (0x777ABC, R, 1)),  # uncacheable
    ],
)
def test_pages_of_each_size(entries: dict[str, int], expected: tuple[int, int, int]) -> None:
    ept, _ = tables(**entries)
    assert ept.walk(GPA, write=False) == expected


@pytest.mark.parametrize(
    ("entries", "write", "qualification"),
    [
        ({"l4": 0}, False, 1),
        ({"l2": 0}, True, 2),
        ({"l1": 0}, False, 1),
        ({"l1": 0x777000 | R | X | WB}, True, 2 | (R | X) << 3),
        ({"l1": 0x777000 | X | WB}, False, 1 | X << 3),
        ({"l4": R | 0x101000}, True, None),  # forbidden at the top: the rights are those of the whole way
    ],
)
def test_violations_tell_the_access_and_the_rights(
    entries: dict[str, int], write: bool, qualification: int | None
) -> None:
    ept, at = tables(**entries)
    if qualification is None:
        ept.words[at[4] >> 3] = at[3] & -4096 | R | X
        qualification = 2 | (R | X) << 3
    with pytest.raises(EptViolation) as e:
        ept.walk(GPA, write=write)
    assert (e.value.qualification & 0x3F, e.value.gpa, e.value.mmio) == (qualification, GPA, False)


@pytest.mark.parametrize(
    "entries",
    [
        {"l1": 0x777000 | W | WB},  # written, not read
        {"l1": 0x777000 | W | X | WB},
        {"l2": W | X},
        {"l1": 0x777000 | R | 2 << 3},  # reserved memory types
        {"l1": 0x777000 | R | 3 << 3},
        {"l1": 0x777000 | R | 7 << 3},
        {"l4": R | W | X | LARGE},  # 512 GiB
        {"l3": R | W | X | 1 << 3},  # a memory type where a table is named
        {"l3": 0x40000000 | 1 << 29 | R | WB | LARGE},  # not aligned
        {"l2": 0x601000 | R | WB | LARGE},
    ],
)
def test_what_no_entry_can_be_is_a_misconfiguration(entries: dict[str, int]) -> None:
    ept, _ = tables(**entries)
    for write in (False, True):
        with pytest.raises(EptMisconfig) as e:
            ept.walk(GPA, write=write)
        assert e.value.entry & ~A == next(iter(entries.values()))


def test_more_than_four_levels_have_is_a_violation() -> None:
    ept, _ = tables()
    with pytest.raises(EptViolation):
        ept.walk(GPA | 1 << 48, write=False)


# ---- KVM's entries, against a dictionary

PAGE = st.one_of(st.integers(0, 1100), st.integers(512 * 512 - 3, 512 * 512 + 600))
OPS = st.one_of(
    st.tuples(st.just("set"), PAGE, st.sampled_from([1, 1, 1, 2, 3]), st.booleans()),
    st.tuples(st.just("zap"), PAGE, st.one_of(st.integers(1, 5), st.integers(500, 300_000))),
    st.tuples(st.just("protect"), PAGE, st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPS, max_size=25))
def test_entries_are_a_dictionary(ops: list[tuple[str, int, int] | tuple[str, int, int, bool]]) -> None:
    """A page that is set or zapped takes along whatever overlaps it, of each size, and empty tables."""
    ept = Ept(PhysMem(None, 64 << 20))
    model: dict[tuple[int, int], int] = {}  # (level, first page) -> entry
    for op, gfn, arg, *more in ops:
        if op == "set":
            size = 1 << 9 * (arg - 1)
            entry = (0x40000000 * (arg == 3)) | R | X | WB | (LARGE if arg > 1 else 0) | (W if more[0] else 0)
            ept.set(gfn & -size, arg, entry)
            start = gfn & -size
            gone = [k for k in model if k[1] < start + size and start < k[1] + (1 << 9 * (k[0] - 1))]
            for key in gone:
                del model[key]
            model[arg, start] = entry
        elif op == "zap":
            ept.zap(gfn, gfn + arg)
            for key in [k for k in model if k[1] < gfn + arg and gfn < k[1] + (1 << 9 * (k[0] - 1))]:
                del model[key]
        else:
            ept.protect(gfn)
            for key in model:
                if key[1] <= gfn < key[1] + (1 << 9 * (key[0] - 1)):
                    model[key] &= ~W
    for gfn in {g + d for _, g in model for d in (0, 1)} | {op[1] for op in ops}:
        want = next((e for (level, g), e in model.items() if g <= gfn < g + (1 << 9 * (level - 1))), 0)
        try:
            _, rights, level = ept.walk(gfn << 12, write=False)
        except EptViolation:
            rights = level = 0
        assert rights == want & 7
        assert (level, gfn >> 9 * (level - 1) << 9 * (level - 1)) in model if level else not want
    used = {(level, g >> 9 * level) for level, g in model} | {(4, 0)}
    used |= {(up, key >> 9 * (up - level)) for level, key in used for up in range(level, 4)}
    assert ept.nr_tables == len(used)
    ept.destroy()
    assert ept.phys.used == 0
