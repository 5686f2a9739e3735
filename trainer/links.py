"""Small messages between the processes of one machine, over Unix sockets.

gloo takes 0.5 to 2 ms for a message of a few bytes, since another thread must wake for it; a step
sends several. Here every rank is connected to every other, and a message takes some 30 us. The
kernel closes a dead process's sockets, so the others learn of it at once.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

LENGTH = struct.Struct("<q")
SECONDS = 30.0
"""Patience while connecting; afterwards the watchdog sees who hangs."""


class Links:
    """Connections of this rank to all others. Every rank calls `exchange` in the same order."""

    def __init__(self, peers: dict[int, socket.socket], *, rank: int) -> None:
        self.rank, self.world = rank, len(peers) + 1
        self._peers = peers
        for peer in peers.values():
            peer.setblocking(False)
        # A forked loader worker must not hold a connection open that its dead parent had.
        alive = weakref.WeakMethod(self.close)
        os.register_at_fork(after_in_child=lambda: (close := alive()) and close())

    def close(self) -> None:
        """Let the others know that no more will come."""
        for peer in self._peers.values():
            peer.close()

    def exchange(self, parts: Sequence[Any]) -> list[bytearray]:
        """`parts[r]` (bytes-like) goes to rank r; returns what each rank sent here, by rank.

        Raises:
            RuntimeError: a rank is gone.
        """
        transfers = [_Transfer(rank, peer, parts[rank]) for rank, peer in self._peers.items()]
        waiting = [transfer for transfer in transfers if not transfer.advance()]
        while waiting:
            _wait(waiting)
            waiting = [transfer for transfer in waiting if not transfer.advance()]
        got = {transfer.rank: transfer.received for transfer in transfers}
        return [
            bytearray(parts[rank]) if rank == self.rank else got[rank] for rank in range(self.world)
        ]


class _Transfer:
    """One message to a rank, and one from it."""

    def __init__(self, rank: int, peer: socket.socket, part: Any) -> None:
        self.rank, self.peer = rank, peer
        view = memoryview(part).cast("B")
        # One system call for a small message; a large one is not copied.
        small = len(view) <= 1 << 16
        head = LENGTH.pack(len(view))
        self._out = [memoryview(head + bytes(view))] if small else [memoryview(head), view]
        self._head = bytearray()
        self.received = bytearray()
        self._missing: int | None = None

    @property
    def sending(self) -> bool:
        """Whether some of the message has not left yet."""
        return bool(self._out)

    def advance(self) -> bool:
        """Send and receive what can be now; whether all is done."""
        try:
            while self._out:
                sent = self.peer.send(self._out[0])
                rest = self._out[0][sent:]
                self._out = [rest, *self._out[1:]] if len(rest) else self._out[1:]
        except BlockingIOError:
            pass  # its buffer is full
        except OSError as error:
            raise RuntimeError(self._gone(error.strerror)) from error
        try:
            while self._missing is None or self._missing:
                self._receive()
        except BlockingIOError:
            return False
        except OSError as error:
            raise RuntimeError(self._gone(error.strerror)) from error
        return not self._out

    def _receive(self) -> None:
        if self._missing is None:
            got = self.peer.recv(LENGTH.size - len(self._head))
            self._head += got
            if len(self._head) == LENGTH.size:
                self._missing = LENGTH.unpack(self._head)[0]
                self.received = bytearray(self._missing)
        else:
            start = len(self.received) - self._missing
            size = self.peer.recv_into(memoryview(self.received)[start:])
            self._missing -= size
            got = b"." * min(size, 1)
        if not got:
            raise RuntimeError(self._gone(None))

    def _gone(self, reason: str | None) -> str:
        return f"connection closed by rank {self.rank}{f' ({reason})' if reason else ''}"


def _wait(transfers: Sequence[_Transfer]) -> None:
    """Sleep until one of them can go on."""
    poll = select.poll()
    for transfer in transfers:
        poll.register(transfer.peer, select.POLLIN | (select.POLLOUT if transfer.sending else 0))
    poll.poll()


def connect(rank: int, world: int, gather: Callable[[Any], list[Any]]) -> Links | None:
    """Connect all ranks; None, on every rank, where they do not share a machine (Linux only).

    Args:
        gather: every rank's JSON-able value, by rank.
    """
    listener, peers = None, {}
    token = secrets.token_hex(16)
    if sys.platform == "linux":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"\0navsynth-{token}-{rank}")  # abstract: no file to leave behind
        listener.listen(world)
        listener.settimeout(SECONDS)
    names = gather(f"{token}-{rank}" if listener else None)
    try:
        if listener and None not in names:
            peers = _meet(listener, rank, names)
    except OSError:
        peers = {}  # another machine or container, said below by all ranks alike
    finally:
        if listener:
            listener.close()
    if all(gather(len(peers) == world - 1)):
        return Links(peers, rank=rank)
    for peer in peers.values():
        peer.close()
    return None


def _meet(listener: socket.socket, rank: int, names: Sequence[str]) -> dict[int, socket.socket]:
    """Call the ranks before this one, and answer those behind it."""
    peers = {}
    for other, name in enumerate(names[:rank]):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(SECONDS)
        peer.connect(f"\0navsynth-{name}")
        peer.sendall(names[other].encode() + LENGTH.pack(rank))
        peers[other] = peer
    mine = names[rank].encode()
    while len(peers) < len(names) - 1:
        peer, _ = listener.accept()
        peer.settimeout(SECONDS)
        hello = peer.recv(len(mine) + LENGTH.size, socket.MSG_WAITALL)
        if hello[: len(mine)] == mine:  # whoever knows the name was told it by a rank
            peers[LENGTH.unpack(hello[len(mine) :])[0]] = peer
        else:
            peer.close()
    return peers
