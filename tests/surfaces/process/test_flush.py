"""When a removed node answers for itself: the order of look-ups and answers, without a host."""

from __future__ import annotations

from typing import Any

from pykernel.fs.ramfs import RamDir, RamFile
from pykernel.surfaces.process.flush import Flusher
from pykernel.surfaces.process.fuse import _WANTED
from pykernel.surfaces.process.nodes import Node, NodeTable

READDIRPLUS = 1 << 13 | 1 << 14  # include/uapi/linux/fuse.h: FUSE_DO_READDIRPLUS, FUSE_READDIRPLUS_AUTO


def removed(kernel: Any) -> tuple[Flusher, Node, tuple[int, str], list[str]]:
    """A file that the host knew and that is gone; the flusher asks for it."""
    root, inode = RamDir(kernel), RamFile(kernel, 0o644)
    nodes, asked = NodeTable(root), list[str]()
    nodes.enter(inode)
    node = nodes.removed(root, "name", inode)
    assert node is not None
    assert node.where is not None
    flusher = Flusher(7, asked.append)
    flusher.settle = nodes.settle
    flusher.add(node, "/name")
    return flusher, node, node.where, asked


def test_a_node_is_stale_until_the_launcher_is_back(kernel: Any) -> None:
    """An answered look-up says nothing of the host's names; the return of the one who asked does."""
    flusher, node, where, asked = removed(kernel)
    assert (node.stale, flusher.has(node)) == (True, True)
    flusher.kick()
    assert (asked, flusher.has(node)) == (["/name"], True)
    flusher.looks_up(*where)
    assert (node.stale, flusher.has(node)) == (True, True)
    flusher.done()
    assert (node.stale, flusher.has(node)) == (False, False)


def test_a_look_that_did_not_reach_the_name_proves_nothing(kernel: Any) -> None:
    """The node stays stale: a name that the host may have never leads to a removed node."""
    flusher, node, (parent, name), _ = removed(kernel)
    flusher.kick()
    flusher.looks_up(parent, name + "2")
    flusher.looks_up(parent + 1, name)
    flusher.done()
    assert (node.stale, flusher.has(node)) == (True, False)


def test_the_answer_of_the_remover_waits(kernel: Any) -> None:
    """What is held is sent when the launcher has looked at all that waits."""
    flusher, _, where, _ = removed(kernel)
    sent: list[int] = []
    flusher.kick()
    flusher.held.append(lambda: sent.append(1))
    flusher.looks_up(*where)
    assert sent == []
    flusher.done()
    assert (sent, flusher.held) == ([1], [])


def test_listings_give_the_host_no_names() -> None:
    """A listing that is digested late would put removed nodes over new ones."""
    assert not _WANTED & READDIRPLUS
