"""The translations of a submission, put together from the events of each entry that the IOMMU read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pykernel.tools.demo.enqcmd.tables import ADDRESS

if TYPE_CHECKING:
    from pykernel.trace import Event

__all__ = ["Level", "Walk", "walks"]


@dataclass(frozen=True)
class Level:
    """
    One table of the guest, as the walk met it.

    Attributes:
        level: 4 is the uppermost.
        gpa: where the guest says the table is; *hpa*: where it is.
        index, entry: which entry was read, and what it is.
        reads: how many second-stage entries it took to get there; 0: it was known.
    """

    level: int
    gpa: int
    hpa: int
    index: int
    entry: int
    reads: int


@dataclass(frozen=True)
class Walk:
    """One translation: *levels* of the guest, then the page; ``stages`` are the second-stage entries for the root."""

    addr: int
    write: bool
    levels: list[Level]
    gpa: int
    hpa: int
    reads: int
    stages: list[dict[str, Any]]


def _reached(steps: list[dict[str, Any]]) -> int:
    """Where the second stage led: the last of its entries, and the address below its page size."""
    last = steps[-1]
    size = 4096 << 9 * (last["level"] - 1)
    return int(last["entry"] & ADDRESS & -size | last["addr"] & size - 1)


def walks(events: Iterable[Event]) -> Iterator[Walk]:
    """
    Each translation among *events*, in order.

    The IOMMU asks the second stage where a table of the guest is before it reads it, so those entries come first; of a
    table that it remembers there are none.
    """
    known: dict[int, int] = {}
    second: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    levels: list[Level] = []
    reads = 0
    for event in events:
        e = event.fields
        if event.name == "vtd_second":
            second.append(e)
            reads += 1
        elif event.name == "vtd_first":
            if second:
                known[e["table"]] = _reached(second)
                stages = stages or second
            levels.append(Level(e["level"], e["table"], known[e["table"]], e["index"], e["entry"], len(second)))
            second = []
            reads += 1
        elif event.name == "vtd_translated" and levels:
            yield Walk(
                e["addr"], e["write"], levels, levels[-1].entry & ADDRESS | e["addr"] & 4095, e["pa"], reads, stages
            )
            second, levels, reads = [], [], 0
