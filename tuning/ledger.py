"""Write-ahead ledger of accelerator-seconds: who may hold accelerators until when, who held them.

One append-only file of JSON lines, each made durable before anything relies on it. A holder writes
*ahead* how long it may hold at most (`hold`), beats again before that time is over, and writes what
it really held when it lets go (`end`). So at any moment, whatever is killed whenever:

    spent = sum over leases of width * (held if ended, else held ahead)

is never below what was held, and above it by less than one interval for each lease that is open.
Who has to let go may take one interval more (`beyond`): a trial overspends by that, and no more.
No clock is kept: seconds are those of a lease, so time in which nothing runs costs nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_shards.errors import UserError

LEDGER = "ledger.jsonl"
ROUNDING = 1e-6
"""Accelerator-seconds by which sums may miss because floats are added in another order."""


class Lease(NamedTuple):
    """Accelerators held by one life of a trial."""

    trial: str
    width: float
    """Accelerators (GPUs, or cores on a machine without)."""
    until: float
    """Seconds, from the lease's start, that it may hold at most; what it held once it is ended."""
    ended: bool

    @property
    def cost(self) -> float:
        """Accelerator-seconds charged."""
        return self.width * self.until


class Account(NamedTuple):
    """What the lines of a ledger amount to."""

    budget: float
    """Accelerator-seconds granted in all."""
    leases: dict[str, Lease]

    @property
    def spent(self) -> float:
        """Accelerator-seconds charged, open leases with what they may hold at most."""
        return sum(lease.cost for lease in self.leases.values())

    @property
    def left(self) -> float:
        """Accelerator-seconds that may still be held."""
        return max(0.0, self.budget - self.spent)

    def of_trial(self, trial: str) -> float:
        """Accelerator-seconds charged to all lives of a trial."""
        return sum(lease.cost for lease in self.leases.values() if lease.trial == trial)

    def open(self) -> list[str]:
        """Names of the leases that have not ended."""
        return [name for name, lease in self.leases.items() if not lease.ended]


EMPTY = Account(0.0, {})


def fold(lines: Iterable[Mapping[str, Any]], account: Account = EMPTY) -> Account:
    """The account after more lines, in order.

    Raises:
        ValueError: a line that no ledger of this kind holds.
    """
    budget, leases = account.budget, dict(account.leases)
    for line in lines:
        if line.get("kind") == "grant":
            budget = float(line["budget"])
        else:
            leases[line["lease"]] = _lease(leases, line)
    return Account(budget, leases)


def _lease(leases: Mapping[str, Lease], line: Mapping[str, Any]) -> Lease:
    """A lease after one more line about it."""
    kind = line.get("kind")
    if kind == "hold":
        known = leases.get(line["lease"])
        until = max(float(line["until"]), known.until if known else 0.0)
        return Lease(line["trial"], float(line["width"]), until, ended=False)
    if kind == "end":
        return leases[line["lease"]]._replace(until=float(line["held"]), ended=True)
    raise ValueError(f"{kind!r} is no kind of line")


def apply(account: Account, line: Mapping[str, Any]) -> Account:
    """The account after one more line."""
    return fold([line], account)


def may_hold(
    account: Account, *, lease: str, trial: str, width: float, until: float,
    cap: float | None = None,
) -> bool:  # fmt: skip
    """Whether the budget, and the trial's own cap, bear a lease that holds until `until`."""
    known = account.leases.get(lease)
    more = width * until - (known.cost if known else 0.0)
    within = account.spent + more <= account.budget + ROUNDING
    return within and (cap is None or account.of_trial(trial) + more <= cap + ROUNDING)


class _Folded(NamedTuple):
    """How much of a file is folded already: all whole lines before `offset`."""

    file: tuple[int, int] = (0, 0)
    """Device and inode."""
    offset: int = 0
    last: bytes = b""
    """The last of those lines."""
    account: Account = EMPTY


class Ledger:
    """The ledger's file, shared by all processes of a study; each call takes its lock.

    Only lines that are new to this object are parsed: a long search writes hundreds of thousands,
    and who holds the lock keeps all others waiting. So keep one, and ask it again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LEDGER
        # Replaced as a whole: several threads may ask.
        self._folded = _Folded()

    def account(self) -> Account:
        """What the file amounts to now."""
        with self._locked() as file:
            return self._read(file)

    def grant(self, budget: float) -> Account:
        """Set the whole budget in accelerator-seconds; a smaller one than before changes nothing.

        Raises:
            UserError: an empty budget.
        """
        if not 0 < budget < float("inf"):
            raise UserError(f"budget: {budget:g} accelerator-seconds; give more than 0 hours")
        with self._locked() as file:
            account = self._read(file)
            if budget <= account.budget:
                return account
            return apply(account, self._append(file, kind="grant", budget=budget))

    def hold(
        self, lease: str, *, trial: str, width: float, until: float | Callable[[], float],
        cap: float | None = None, beyond: bool = False,
    ) -> float:  # fmt: skip
        """Reserve ahead: the lease may hold until `until` seconds after its start.

        Args:
            width: accelerators held.
            until: asked for once the lock is held, where it is a function: waiting takes time.
            cap: most accelerator-seconds of this trial in all its lives.
            beyond: charge it whether the budget bears it or not, since it is held in any case.

        Returns:
            Until when it may hold; 0 where the budget or the cap does not bear it, or the lease has
            ended: then nothing is written, and the holder has to let go within what it has reserved
            already.
        """
        with self._locked() as file:
            account = self._read(file)
            known = account.leases.get(lease)
            wanted = until() if callable(until) else until
            bears = beyond or may_hold(
                account, lease=lease, trial=trial, width=width, until=wanted, cap=cap
            )
            if not bears or (known and known.ended):
                return 0.0
            self._append(file, kind="hold", lease=lease, trial=trial, width=width, until=wanted)
            return wanted

    def end(self, lease: str, *, held: float) -> None:
        """Charge what a lease really held, in seconds. Ending it twice changes nothing."""
        with self._locked() as file:
            account = self._read(file)
            if not account.leases[lease].ended:
                self._append(file, kind="end", lease=lease, held=held)

    def settle(self) -> list[str]:
        """End the leases of processes that are gone with all that they may have held.

        Call it only where no trial of the study runs. Returns the leases' names.
        """
        with self._locked() as file:
            account = self._read(file)
            for lease in account.open():
                held = account.leases[lease].until
                self._append(file, kind="end", lease=lease, held=held, settled=True)
            return account.open()

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._folded.offset and self.path.is_file():
            # A long file is folded once before the lock is taken: whole lines never change.
            with self.path.open("rb") as file:
                self._read(file, cut=False)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _read(self, file: IO[bytes], *, cut: bool = True) -> Account:
        """Fold what is new; what a killed writer left of a last line is cut off where `cut`: none
        relied on it, and it lies past all that is folded."""
        known = self._folded if self._goes_on(file) else _Folded()
        file.seek(known.offset)
        whole, newline, rest = file.read().rpartition(b"\n")
        offset = known.offset + len(whole) + len(newline)
        if rest and cut:
            file.truncate(offset)
        lines = whole.splitlines()
        try:
            account = fold((json.loads(line) for line in lines), known.account)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path}: not a ledger ({error}); restore the file or choose another --out"
            ) from None
        last = lines[-1] + newline if lines else known.last
        self._folded = _Folded(_identity(file), offset, last, account)
        return account

    def _goes_on(self, file: IO[bytes]) -> bool:
        """Whether a file begins with what is folded: it was not replaced, nor made shorter."""
        known = self._folded
        if _identity(file) != known.file or os.fstat(file.fileno()).st_size < known.offset:
            return False
        file.seek(known.offset - len(known.last))
        return file.read(len(known.last)) == known.last

    def _append(self, file: IO[bytes], **line: Any) -> dict[str, Any]:
        file.write((json.dumps(line, separators=(",", ":")) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
        return line


def _identity(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
