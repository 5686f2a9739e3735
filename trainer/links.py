"""Messages between the processes of one machine, over Unix sockets.

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
from pathlib import Path
from typing import Any

HEAD = struct.Struct("<qq")
"""Number of the exchange, bytes of the message."""
RANK = struct.Struct("<q")
CREDENTIALS = struct.Struct("3i")
CONNECT_SECONDS = 60.0
SMALL = 1 << 16

_open: weakref.WeakSet[Links] = weakref.WeakSet()
_hooks: list[Callable[[], None]] = []


class Links:
    """Connections of this rank to all others. Every rank calls the same methods in one order."""

    def __init__(
        self, peers: dict[int, socket.socket], *, rank: int, timeout_seconds: float
    ) -> None:
        self.rank, self.world = rank, len(peers) + 1
        self._peers, self._timeout = peers, timeout_seconds
        self._number = 0
        for peer in peers.values():
            peer.setblocking(False)
        _open.add(self)
        if not _hooks:
            # A forked loader worker must not hold a connection open that its dead parent had.
            _hooks.append(_close_all)
            os.register_at_fork(after_in_child=_close_all)

    def close(self) -> None:
        """Let the others know that no more will come."""
        for peer in self._peers.values():
            peer.close()

    def exchange(self, parts: Sequence[Any]) -> list[bytearray]:
        """`parts[r]` (bytes-like) goes to rank r; returns what each rank sent here, by rank.

        Raises:
            RuntimeError: a rank is gone, silent for too long, or at another exchange than this one.
        """
        self._number += 1
        transfers = [
            _Transfer(rank, peer, parts[rank], self._number) for rank, peer in self._peers.items()
        ]
        try:
            waiting = [transfer for transfer in transfers if not transfer.advance()]
            while waiting:
                _wait(waiting, self._timeout)
                waiting = [transfer for transfer in waiting if not transfer.advance()]
        except RuntimeError:
            self.close()  # whoever waits for this rank need not any more
            raise
        got = {transfer.rank: transfer.received for transfer in transfers}
        return [
            bytearray(parts[rank]) if rank == self.rank else got[rank] for rank in range(self.world)
        ]

    def pass_on(self, descriptor: int) -> int:
        """A file descriptor of rank 0 on every rank (there, the very one); the caller closes it.

        Raises:
            OSError: rank 0 is gone.
        """
        self.exchange([b""] * self.world)  # nothing else is under way
        if self.rank == 0:
            for peer in self._peers.values():
                socket.send_fds(peer, [b"f"], [descriptor])
            return descriptor
        peer = self._peers[0]
        peer.settimeout(CONNECT_SECONDS)
        try:
            _, found, _, _ = socket.recv_fds(peer, 1, 1)
        finally:
            peer.setblocking(False)
        if not found:
            raise OSError("rank 0 passed no descriptor on")
        return found[0]


def _close_all() -> None:
    for links in list(_open):
        links.close()


class _Transfer:
    """One message to a rank, and one from it."""

    def __init__(self, rank: int, peer: socket.socket, part: Any, number: int) -> None:
        self.rank, self.peer, self._number = rank, peer, number
        view = memoryview(part).cast("B")
        head = HEAD.pack(number, len(view))
        # One system call for a small message; a large one is not copied.
        small = len(view) <= SMALL
        self._out = [memoryview(head + bytes(view))] if small else [memoryview(head), view]
        self._head = bytearray()
        self.received = bytearray()
        self._missing: int | None = None

    @property
    def sending(self) -> bool:
        """Whether some of the message has not left yet."""
        return bool(self._out)

    def advance(self) -> bool:
        """Send and receive what can be now; whether all is done.

        Raises:
            RuntimeError: the rank is gone, or at another exchange.
        """
        try:
            return all([self._send(), self._receive()])
        except OSError as error:
            raise RuntimeError(self._gone(error.strerror)) from error

    def _send(self) -> bool:
        while self._out:
            try:
                sent = self.peer.send(self._out[0])
            except BlockingIOError:
                return False  # its buffer is full
            rest = self._out[0][sent:]
            self._out = [rest, *self._out[1:]] if len(rest) else self._out[1:]
        return True

    def _receive(self) -> bool:
        try:
            while (missing := self._missing) is None:
                self._receive_head()
            while missing:
                start = len(self.received) - missing
                size = self.peer.recv_into(memoryview(self.received)[start:])
                self._missing = missing = missing - self._some(size)
        except BlockingIOError:
            return False
        return True

    def _receive_head(self) -> None:
        part = self.peer.recv(HEAD.size - len(self._head))
        self._some(len(part))
        self._head += part
        if len(self._head) == HEAD.size:
            number, size = HEAD.unpack(self._head)
            if number != self._number:
                raise RuntimeError(
                    f"rank {self.rank} is at exchange {number} and this one at {self._number}"
                )
            self._missing, self.received = size, bytearray(size)

    def _some(self, size: int) -> int:
        if not size:
            raise RuntimeError(self._gone(None))
        return size

    def _gone(self, reason: str | None) -> str:
        return f"connection closed by rank {self.rank}{f' ({reason})' if reason else ''}"


def _wait(transfers: Sequence[_Transfer], seconds: float) -> None:
    """Sleep until one of them can go on."""
    poll = select.poll()
    for transfer in transfers:
        poll.register(transfer.peer, select.POLLIN | (select.POLLOUT if transfer.sending else 0))
    if not poll.poll(seconds * 1000):
        ranks = ", ".join(str(transfer.rank) for transfer in transfers)
        raise RuntimeError(f"timed out waiting for rank {ranks} after {seconds:.0f} s")


def connect(
    rank: int, world: int, gather: Callable[[Any], list[Any]], *, timeout_seconds: float
) -> Links | None:
    """Connect all ranks; None, on every rank, where they do not share a machine (Linux only).

    Args:
        gather: every rank's JSON-able value, by rank.
        timeout_seconds: how long a rank may keep the others waiting.
    """
    listener, peers = _listen(world), {}
    secret = secrets.token_hex(16)
    here = [_machine(), listener.getsockname().hex(), secret] if listener else None
    everyone = gather(here)
    if listener and all(everyone) and len({machine for machine, _, _ in everyone}) == 1:
        try:
            peers = _meet(listener, rank, [(bytes.fromhex(n), s) for _, n, s in everyone])
        except OSError:
            peers = {}  # said below by all ranks alike
    if listener:
        listener.close()
    if all(gather(len(peers) == world - 1)):
        return Links(peers, rank=rank, timeout_seconds=timeout_seconds)
    for peer in peers.values():
        peer.close()
    return None


def _listen(world: int) -> socket.socket | None:
    """A socket with a name in no file system, so that none is left behind; None without Linux."""
    if sys.platform != "linux":
        return None
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("")
        listener.listen(world)
        listener.settimeout(CONNECT_SECONDS)
    except OSError:
        return None
    return listener


def _machine() -> str:
    """Boot and network namespace, within which such names are known."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/net').stat().st_ino}"


def _meet(
    listener: socket.socket, rank: int, everyone: Sequence[tuple[bytes, str]]
) -> dict[int, socket.socket]:
    """Call the ranks before this one, and answer those behind it: they know its secret."""
    peers: dict[int, socket.socket] = {}
    for other, (name, secret) in enumerate(everyone[:rank]):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(CONNECT_SECONDS)
        peer.connect(name)
        peer.sendall(secret.encode() + RANK.pack(rank))
        peers[other] = peer
    mine = everyone[rank][1].encode()
    while len(peers) < len(everyone) - 1:
        peer, _ = listener.accept()
        peer.settimeout(CONNECT_SECONDS)
        _, user, _ = CREDENTIALS.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        )
        hello = b""
        if user == os.getuid():
            hello = peer.recv(len(mine) + RANK.size, socket.MSG_WAITALL)
        if secrets.compare_digest(hello[: len(mine)], mine):
            peers[RANK.unpack(hello[len(mine) :])[0]] = peer
        else:
            peer.close()  # a stranger
    return peers
