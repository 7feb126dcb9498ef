"""What the guest's kernel knows of the tree: numbered nodes, and where each lies below the root.

A node is one file of the host, known by device and inode, so that two hard links are one node. It
remembers a place (parent node and name) and no descriptor: every use walks there anew and checks
that the same file still lies there, so a change on the host shows as ESTALE (the guest's kernel
then looks the name up again) and never as another file. A file that is open is reached through
its handle. Nodes live until the guest forgets them; their number is bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from vmm.fuse_contain import ANY, DIRECTORY, ContainedRoot
from vmm.fuse_wire import ROOT_ID

if TYPE_CHECKING:
    from vmm.fuse_handles import Handle

MAX_NODES: Final = 1 << 20
"""A guest with 1 GiB of cached names; each costs the host about 400 bytes."""
MAX_OTHER_PLACES: Final = 64
MAX_DEPTH: Final = 4096


class Node:
    """One file the guest knows."""

    __slots__ = (
        "children",
        "device",
        "gone",
        "handles",
        "id",
        "inode",
        "kind",
        "lookups",
        "name",
        "others",
        "parent",
        "seen_mtime_ns",
        "seen_size",
    )

    def __init__(
        self, node_id: int, parent: Node | None, name: bytes, file: tuple[int, int, int]
    ) -> None:
        """`file` is device, inode and kind (S_IFMT of the mode)."""
        self.id = node_id
        self.parent = parent
        self.name = name
        self.device, self.inode, self.kind = file
        self.lookups = 0
        """How often the guest's kernel was given this node and has not forgotten it."""
        self.children = 0
        """Nodes whose place is in this one."""
        self.others: set[tuple[Node, bytes]] | None = None
        """More places of a file with several links."""
        self.handles: list[Handle] = []
        self.gone = False
        """No name leads here any more."""
        self.seen_mtime_ns = -1
        self.seen_size = -1
        """What the guest was last told: whether its cached pages are still true."""

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.device, self.inode

    def is_file(self, status: os.stat_result) -> bool:
        """True if that is the status of this node's file."""
        return (
            status.st_ino == self.inode
            and status.st_dev == self.device
            and stat.S_IFMT(status.st_mode) == self.kind
        )


def file_of(status: os.stat_result) -> tuple[int, int, int]:
    """Device, inode and kind: which file that is."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


class NodeTable:
    """All nodes of one mount."""

    def __init__(self, root: ContainedRoot) -> None:
        self.root = root
        self.root_node = Node(ROOT_ID, None, b"", file_of(root.status))
        self.root_node.lookups = 1
        self.by_id: dict[int, Node] = {ROOT_ID: self.root_node}
        self.by_identity: dict[tuple[int, int], Node] = {self.root_node.identity: self.root_node}
        self.next_id = ROOT_ID + 1

    def get(self, node_id: int) -> Node:
        """The node of that number.

        Raises:
            OSError: ENOENT.
        """
        try:
            return self.by_id[node_id]
        except KeyError:
            raise OSError(errno.ENOENT, "a node nobody was given") from None

    # -- reaching what a node stands for --------------------------------------------------------

    def open_directory(self, node: Node) -> int:
        """An O_PATH descriptor of a directory node; the caller closes it.

        Raises:
            OSError: ENOENT if the way there leads out, ESTALE if another one lies there now,
                ENOTDIR.
        """
        if node.kind != stat.S_IFDIR:
            raise OSError(errno.ENOTDIR, "not a directory")
        return self._open_checked(node, node.parent, node.name, DIRECTORY)

    def open(self, node: Node) -> int:
        """An O_PATH descriptor of any node, a link itself included; the caller closes it.

        Raises:
            OSError: as `open_directory`.
        """
        if node.kind != stat.S_IFDIR:  # a directory may have been moved out of the root
            for handle in node.handles:
                if handle.fd >= 0:
                    return os.dup(handle.fd)
        try:
            return self._open_checked(node, node.parent, node.name, ANY)
        except OSError:
            for parent, name in list(node.others or ()):
                try:
                    return self._open_checked(node, parent, name, ANY)
                except OSError:
                    continue  # the first place's error is the one to report
            raise

    def _open_checked(self, node: Node, parent: Node | None, name: bytes, flags: int) -> int:
        if node.gone:
            # A file may have been replaced: the guest's kernel shall look for the name again.
            raise OSError(errno.ENOENT if node.kind == stat.S_IFDIR else errno.ESTALE, "removed")
        path = b"" if parent is None else self.path_of(parent, name)
        fd = self.root.open(path, flags)
        if not node.is_file(os.fstat(fd)):
            os.close(fd)
            raise OSError(errno.ESTALE, "another file lies there now")
        return fd

    def path_of(self, parent: Node, name: bytes) -> bytes:
        """The path below the root of an entry.

        Raises:
            OSError: ELOOP if the remembered places run in a circle.
        """
        parts = [name]
        node = parent
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
            if len(parts) > MAX_DEPTH:
                raise OSError(errno.ELOOP, "deeper than any tree we serve")
        parts.reverse()
        return b"/".join(parts)

    # -- names come and go ----------------------------------------------------------------------

    def found(self, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """The node of a file just seen under that name; the guest is about to be given it.

        Raises:
            OSError: ENOMEM if the guest holds too many.
        """
        node = self.by_identity.get((status.st_dev, status.st_ino))
        if node is None or not node.is_file(status):
            node = self._add(parent, name, status)
        elif node.parent is not parent or node.name != name:
            self._place_again(node, parent, name, keep=status.st_nlink > 1)
        node.lookups += 1
        return node

    def _add(self, parent: Node, name: bytes, status: os.stat_result) -> Node:
        if len(self.by_id) >= MAX_NODES:
            raise OSError(errno.ENOMEM, "the guest holds too many names")
        node = Node(self.next_id, parent, name, file_of(status))
        self.next_id += 1
        self.load(node)
        return node

    def load(self, node: Node) -> None:
        """Take in a new node, or one of a saved table."""
        assert node.parent is not None
        node.parent.children += 1
        self.by_id[node.id] = node
        if not node.gone:
            self.by_identity[node.identity] = node

    def _place_again(self, node: Node, parent: Node, name: bytes, *, keep: bool) -> None:
        """Remember where a node lies now, and where else if it has several names."""
        if node is self.root_node or self._is_below(parent, node):
            return  # the host moves directories about: never make a circle of it
        if keep and node.kind != stat.S_IFDIR and node.parent is not None:
            others = node.others = node.others if node.others is not None else set()
            if len(others) < MAX_OTHER_PLACES and (node.parent, node.name) not in others:
                others.add((node.parent, node.name))
                node.parent.children += 1
            if (parent, name) in others:
                others.discard((parent, name))
                parent.children -= 1
        self._move_to(node, parent, name)

    def _move_to(self, node: Node, parent: Node, name: bytes) -> None:
        old = node.parent
        node.parent, node.name = parent, name
        parent.children += 1
        if old is not None:
            old.children -= 1
            self._drop_if_unused(old)

    def _is_below(self, node: Node, above: Node) -> bool:
        if above.kind != stat.S_IFDIR:
            return False
        walk: Node | None = node
        for _ in range(MAX_DEPTH):
            if walk is None:
                return False
            if walk is above:
                return True
            walk = walk.parent
        return True

    def renamed(
        self, old: tuple[Node, bytes], new: tuple[Node, bytes], status: os.stat_result
    ) -> None:
        """A file lies at a new place, and no more at the old one."""
        node = self.by_identity.get((status.st_dev, status.st_ino))
        if node is None or (node.parent, node.name) == new:
            return
        if node.others and old in node.others:
            node.others.discard(old)
            old[0].children -= 1
        is_first = (node.parent, node.name) == old
        self._place_again(node, *new, keep=status.st_nlink > 1 and not is_first)

    def removed(self, parent: Node, name: bytes, status: os.stat_result) -> None:
        """A name is gone; `status` is its file's from just before."""
        node = self.by_identity.get((status.st_dev, status.st_ino))
        if node is None or node is self.root_node:
            return
        if node.others and (parent, name) in node.others:
            node.others.discard((parent, name))
            parent.children -= 1
        elif node.others and node.parent is parent and node.name == name:
            other_parent, other_name = node.others.pop()
            other_parent.children -= 1
            self._move_to(node, other_parent, other_name)
        if status.st_nlink <= 1 or node.kind == stat.S_IFDIR:
            node.gone = True
            del self.by_identity[node.identity]  # the inode's number may be another file's soon

    # -- and are forgotten ----------------------------------------------------------------------

    def forget(self, node_id: int, count: int) -> None:
        """The guest's kernel gives back what it was given `count` times."""
        node = self.by_id.get(node_id)
        if node is None or node is self.root_node:
            return
        node.lookups = max(0, node.lookups - count)
        self._drop_if_unused(node)

    def _drop_if_unused(self, node: Node) -> None:
        walk: Node | None = node
        while walk is not None and walk is not self.root_node:
            if walk.lookups or walk.children or walk.handles or walk.id not in self.by_id:
                return
            del self.by_id[walk.id]
            if self.by_identity.get(walk.identity) is walk:
                del self.by_identity[walk.identity]
            for parent, _ in walk.others or ():
                parent.children -= 1
                self._drop_if_unused(parent)
            parent, walk.parent = walk.parent, None
            if parent is not None:
                parent.children -= 1
            walk = parent

    def forget_all(self) -> None:
        """Nothing but the root is known any more; numbers are not used again."""
        self.by_id = {ROOT_ID: self.root_node}
        self.by_identity = {self.root_node.identity: self.root_node}
        self.root_node.children = 0

    def released(self, node: Node) -> None:
        """A handle of the node was closed."""
        self._drop_if_unused(node)
