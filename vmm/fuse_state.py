"""A live mount's nodes, handles and locks as JSON, so that a restored guest goes on with them.

Read back on the same directory, a file is taken for the guest's only if its device and inode are
still the same; on another directory (an override, another host) the same path will do. A handle
whose file is not there any more stays, closed: its owner gets EBADF. The state comes from a bundle
anyone may have edited, so it is checked like a guest's bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from vmm import fuse_directories, fuse_files
from vmm.errors import VmmError
from vmm.fuse_handles import Handle
from vmm.fuse_locks import Lock, Waiting
from vmm.fuse_nodes import Node
from vmm.fuse_tree import FuseTree
from vmm.fuse_unlinked import restore_unlinked, save_unlinked
from vmm.fuse_wire import ROOT_ID, entry_name

VERSION: Final = 1


def save(tree: FuseTree) -> dict[str, Any]:
    """Everything a guest's kernel relies on, with names as surrogate-escaped UTF-8."""
    return {
        "version": VERSION,
        "root": list(tree.nodes.root_node.identity),
        "next": [tree.nodes.next_id, tree.handles.next_id],
        "pages_bytes_served": tree.pages_bytes_served,
        "nodes": [_save_node(node) for node in _parents_first(tree)],
        "handles": [_save_handle(handle) for handle in tree.handles.by_id.values()],
        "unlinked": save_unlinked(tree),
        "locks": [
            [node, *map(int, lock)] for node, locks in tree.locks.held.items() for lock in locks
        ],
        "waiting": [[each.unique, each.node, *map(int, each.lock)] for each in tree.locks.waiting],
    }


def _parents_first(tree: FuseTree) -> Iterator[Node]:
    """Every node but the root, none before the one it lies in."""
    done = {ROOT_ID}
    for node in tree.nodes.by_id.values():
        chain: list[Node] = []
        walk: Node | None = node
        while walk is not None and walk.id not in done:
            done.add(walk.id)
            chain.append(walk)
            walk = walk.parent
        yield from reversed(chain)


def _save_node(node: Node) -> list[Any]:
    """`[number, parent, name, device, inode, kind, lookups, gone, other places]`."""
    assert node.parent is not None
    others = [[parent.id, _text(name)] for parent, name in node.others or ()]
    place = [node.parent.id, _text(node.name)]
    return [
        node.id, *place, node.device, node.inode, node.kind, node.lookups, int(node.gone), others
    ]  # fmt: skip


def _save_handle(handle: Handle) -> list[Any]:
    """`[number, node, flags, directory offset]`."""
    return [handle.id, handle.node.id, handle.flags, handle.position]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


# -- and back -------------------------------------------------------------------------------------


def load(tree: FuseTree, state: dict[str, Any]) -> None:
    """Fill a fresh tree.

    Raises:
        VmmError: MOUNT_STATE_INVALID.
    """
    try:
        if state["version"] != VERSION:
            raise ValueError(f"version {state['version']}")
        same_root = tuple(state["root"]) == tree.nodes.root_node.identity
        for record in state["nodes"]:
            _load_node(tree, record, same_root=same_root)
        for record in state["nodes"]:
            _load_other_places(tree, record)
        _load_handles(tree, state["handles"], dict(state["unlinked"]))
        for node, *lock in state["locks"]:
            tree.locks.restore(tree.nodes.get(node).id, _lock(lock))
        for unique, node, *lock in state["waiting"]:
            tree.locks.waiting.append(Waiting(_number(unique), _number(node), _lock(lock)))
        tree.nodes.next_id, tree.handles.next_id = map(_number, state["next"])
        tree.pages_bytes_served = _number(state["pages_bytes_served"])
        _check_numbers(tree)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise VmmError(
            "MOUNT_STATE_INVALID", f"the saved state of a live mount cannot be read: {error}"
        ) from error


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"not a number: {value!r}")
    return value


def _name(value: str) -> bytes:
    return entry_name(value.encode("utf-8", "surrogateescape"))


def _lock(fields: list[int]) -> Lock:
    flock, owner, kind, start, end, pid, handle = map(_number, fields)
    return Lock(bool(flock), owner, kind, start, end, pid, handle)


def _check_numbers(tree: FuseTree) -> None:
    """No number that is in use may be given to another."""
    if tree.nodes.next_id <= max(tree.nodes.by_id):
        raise ValueError("a node's number would be given twice")
    if tree.handles.next_id <= max(tree.handles.by_id, default=0):
        raise ValueError("a handle's number would be given twice")


def _load_node(tree: FuseTree, record: list[Any], *, same_root: bool) -> None:
    node_id, parent_id, name, device, inode, kind, lookups, gone, _ = record
    if _number(node_id) in tree.nodes.by_id:
        raise ValueError(f"node {node_id} is there twice")
    parent = tree.nodes.get(_number(parent_id))
    node = Node(
        _number(node_id), parent, _name(name), (_number(device), _number(inode), _number(kind))
    )
    node.lookups, node.gone = _number(lookups), bool(gone)
    if not same_root and not node.gone:
        _adopt_what_lies_there(tree, node)
    tree.nodes.load(node)


def _adopt_what_lies_there(tree: FuseTree, node: Node) -> None:
    """On another directory the file of the same path and kind is the guest's now."""
    assert node.parent is not None
    try:
        directory_fd = tree.nodes.open_directory(node.parent)
    except OSError:
        return  # its uses will say so
    try:
        status = os.stat(node.name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) == node.kind:
            node.device, node.inode = status.st_dev, status.st_ino
    except OSError:
        return
    finally:
        os.close(directory_fd)


def _load_other_places(tree: FuseTree, record: list[Any]) -> None:
    node = tree.nodes.get(record[0])
    for parent_id, name in record[8]:
        parent = tree.nodes.get(_number(parent_id))
        node.others = node.others or set()
        node.others.add((parent, _name(name)))
        parent.children += 1


def _load_handles(
    tree: FuseTree, records: list[list[Any]], unlinked: dict[str, list[object]]
) -> None:
    """Open every file again; those without a name from their copies."""
    copies: dict[int, int] = {}
    try:
        for record in records:
            handle_id, node_id, flags, position = map(_number, record)
            if handle_id in tree.handles.by_id:
                raise ValueError(f"handle {handle_id} is there twice")
            node = tree.nodes.get(node_id)
            tree.handles.check_room()
            if node.gone and node_id not in copies and str(node_id) in unlinked:
                with suppress(OSError):  # then it is lost, as one too large would be
                    copies[node_id] = restore_unlinked(tree, node, unlinked[str(node_id)])
            fd = _open_again(tree, node, flags, copies.get(node_id))
            handle = tree.handles.load(handle_id, node, fd, flags)
            if fd >= 0 and node.kind == stat.S_IFDIR and position:
                handle.resume(position)
    finally:
        for fd in copies.values():
            os.close(fd)


def _open_again(tree: FuseTree, node: Node, flags: int, copy_fd: int | None) -> int:
    """A descriptor as it was opened, or -1 if the file is not there any more."""
    try:
        if node.kind == stat.S_IFDIR:
            return fuse_directories.open_listing(tree, node)
        flags &= ~os.O_TRUNC
        if copy_fd is not None:
            return fuse_files.open_itself(copy_fd, flags)
        return fuse_files.open_file(tree, node, flags)
    except OSError:
        return -1
