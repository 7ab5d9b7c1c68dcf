"""
How the host forgets the names of removed nodes.

FUSE can only take a name from the host's cache under the lock of its directory, which a client may hold while it waits
for K; and who waits for a lock cannot be killed. So K does not notify: it asks the launcher, which lives among the
clients and can be killed, to look at each path. K answers that with ESTALE, the host's VFS walks the path once more and
looks every name up afresh (``fs/namei.c``, LOOKUP_REVAL), K says ENOENT to the last one, and the name is gone. The node
is then reached by open descriptors and working directories only, and answers for itself.

It answers for itself only when the launcher comes back, whoever looked its name up before: that K has answered says
nothing of the host, which drops or gives a name when the one who asked comes to run. The launcher waits for all of
them: of one name the host has one look-up on its way (``fs/dcache.c:d_alloc_parallel()``), and none beside a name that
it has. Its look takes no attribute from the cache, for what was on its way may bring some.

The call that removed nodes is answered when the host knows, so that its caller sees the same tree as K.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.fs.vfs import Inode
    from pykernel.surfaces.process.nodes import Node

__all__ = ["Flusher", "host_path"]


def host_path(inode: Inode) -> str:
    """Where clients see *inode*, or saw it before it was removed."""
    parts: list[str] = []
    while inode.parent is not None and inode.parent is not inode:
        parts.append(getattr(inode, "name", "") or "sys")  # the root of sysfs has no name
        inode = inode.parent
    return "/" + "/".join(reversed(parts))


class Flusher:
    """
    The removed nodes whose names the host may still have; *ask* sends a path to the launcher, whose thread is *tid*.

    Children are removed before their directories, so a path that is asked for leads through directories that the host
    still knows: to the launcher, what waits here looks as it was. ``held`` sends answers when all is done.
    """

    def __init__(self, tid: int, ask: Callable[[str], None]) -> None:
        self.tid = tid
        self.ask = ask
        self.settle: Callable[[Node], None] = lambda node: None
        self.current: Node | None = None
        self.waiting: deque[tuple[Node, str]] = deque()
        self.held: list[Callable[[], None]] = []
        self._afresh = False

    def add(self, node: Node, path: str) -> None:
        """The name *path* of *node* was removed."""
        self.waiting.append((node, path))

    def has(self, node: Node) -> bool:
        """The host may still have the name of *node*."""
        return node is self.current or any(node is other for other, _ in self.waiting)

    def looks_up(self, parent: int, name: str) -> None:
        """The launcher looks (*parent*, *name*) up: if that is the name of the current node, it has come to its end."""
        if self.current is not None and self.current.where == (parent, name):
            self._afresh = True

    def kick(self) -> None:
        """Start with what waits, unless the launcher is at work."""
        while self.current is None and self.waiting:
            node, path = self.waiting.popleft()
            if node.stale:
                self.current, self._afresh = node, False
                self.ask(path)

    def done(self) -> None:
        """The launcher has looked."""
        node, self.current = self.current, None
        if node is not None and self._afresh:
            self.settle(node)
        self.kick()
        if self.current is None:
            self.release()

    def release(self) -> None:
        """Send the answers that were held."""
        held, self.held = self.held, []
        for answer in held:
            answer()
