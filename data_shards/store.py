"""Where footage lies: a folder, or an http(s) or S3 store reached through fsspec.

Every call to a remote store has two guards: failures are tried again with exponential backoff, and
a watchdog ends the call with one clear line when nothing has arrived for `timeout` seconds, also
where the library below would wait for ever. Local files are read in place, again and with the same
waits where the disk below them refuses (`Store.patient`).
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from data_shards.errors import UserError
from data_shards.heart import Failure, Watch, heartbeat
from data_shards.single import byte_range

T = TypeVar("T")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, UserError)
_NAMES = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path that no file can have."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the disk that a download goes to; no store answers with them."""
_WAITS = tenacity.wait_random_exponential(multiplier=0.1, max=10)
SMALL = 1 << 30
"""Bytes of a manifest, the largest file that is read whole, at most."""
_EXTRAS = {"s3": "s3", "http": "http", "https": "http"}
"""The extra of this package that brings each protocol's client."""


def remedy(error: OSError, *, absent: str = "prepare the footage again") -> str:
    """What to do about a local file that cannot be read: `absent` where it is not there."""
    return absent if _permanent(error) else "check that disk"


class Store:
    """One folder of a local or remote store.

    Args:
        where: the folder: a path or a URL.
        timeout: seconds without any progress after which a call fails.
        attempts: tries of each call.
    """

    def __init__(self, where: str, *, timeout: float = 60.0, attempts: int = 10) -> None:
        self.where, self.timeout, self.attempts = where.rstrip("/") or "/", timeout, attempts
        self.protocol = where.split("://", 1)[0] if "://" in where else "file"
        if self.protocol == "file":
            self.where = self.where.removeprefix("file://")
        elif self.protocol not in _EXTRAS:
            raise UserError(
                f"data.manifest: {where}: unknown kind of store; use a path, http(s):// or s3://"
            )
        self.local = self.protocol == "file"
        if not self.local and "@" in where.split("://", 1)[1].split("/", 1)[0]:
            raise UserError(
                f"data.manifest: {self.protocol}:// with a user or password in it, which would "
                "stand in run folders and reports; use a store that asks for none, S3 with keys in "
                "the environment, or a mounted folder"
            )
        self.retries = 0
        self._stop = threading.Event()
        self._opened: tuple[int, Any] | None = None

    def path(self, name: str) -> Path:
        """Path of a file of a local store, which may be no link out of the folder (UserError)."""
        folder = Path(self.where)
        path = folder / name
        if path.is_symlink() and path.resolve().parent != folder.resolve():
            raise UserError(f"{path}: the link leaves {folder}; put the file itself there")
        return path

    def url(self, name: str) -> str:
        """Address of a file, as errors name it."""
        return f"{self.where}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where the store does not tell.

        Raises:
            UserError: missing or out of reach.
        """
        if self.local:
            try:
                return self.patient(self.path(name).stat).st_size
            except OSError as error:
                raise UserError(f"{self.url(name)}: {error.strerror}; is it complete?") from None
        return self._guarded(name, lambda beat: self._size(self.url(name)))

    def read(self, name: str) -> bytes:
        """A small file's bytes.

        Raises:
            UserError: missing or out of reach.
        """
        if self.local:
            try:
                return self.patient(self.path(name).read_bytes)
            except OSError as error:
                hint = remedy(error, absent="run data_shards.prepare first")
                raise UserError(f"{self.url(name)}: {error.strerror}; {hint}") from None
        with tempfile.TemporaryDirectory() as folder:  # as a download, which tells that it moves
            file = Path(folder) / "file"
            self._guarded(
                name,
                lambda beat: self._download(name, file, beat, most=SMALL, setting="TMPDIR"),
            )
            return file.read_bytes()

    @property
    def stop(self) -> threading.Event:
        """What the next `close` sets; whoever works ahead takes it before it begins."""
        return self._stop

    def fetch(
        self, name: str, *, into: Path, size: int, stop: threading.Event | None = None
    ) -> None:
        """Download a file of a remote store.

        Args:
            size: bytes that it should have. It is given up after twice as many and a MiB, since a
                store may send for ever; what is a little too long is its reader's to find.
            stop: ends the download; by default what the next `close` sets.

        Raises:
            UserError: missing, out of reach, too large or ended; or the disk of `into` is full.
        """
        most = 2 * size + (1 << 20)
        self._guarded(name, lambda beat: self._download(name, into, beat, most=most), stop=stop)

    def span(self, name: str, *, start: int, size: int) -> bytes:
        """Some bytes of a file of a remote store, fewer where it ends before.

        Raises:
            NoRangesError: the server gives whole files alone.
            UserError: missing or out of reach.
        """
        return self._guarded(
            name,
            lambda beat: byte_range(self._fs(), self.url(name), start=start, size=size, beat=beat),
        )

    def patient(self, call: Callable[[], T]) -> T:
        """What a call gives that reads a disk; a refusal that may pass costs another try.

        Raises:
            OSError: the last refusal, after `attempts` tries or `timeout` seconds.
        """
        try:
            return call()
        except OSError as error:
            if _permanent(error) or self.attempts == 1:
                raise
            self.retries += 1
        stop = self._stop
        retrying = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self.attempts - 1),
                tenacity.stop_after_delay(self.timeout),
                tenacity.stop_when_event_set(stop),
            ),
            wait=_WAITS,
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, OSError) and not _permanent(error)
            ),
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=self._count,
            reraise=True,
        )
        return retrying(call)

    def close(self) -> None:
        """End the calls under way in other threads; later calls go through."""
        self._stop.set()
        self._stop = threading.Event()

    def _count(self, _state: tenacity.RetryCallState) -> None:
        self.retries += 1

    def _download(
        self, name: str, into: Path, beat: Callable[[], None], *, most: int,
        setting: str = "data.cache_dir",
    ) -> None:  # fmt: skip
        """Fetch a file of at most `most` bytes; `setting` is what puts `into` where it is."""
        where = self.url(name)
        more = UserError(f"{where}: more than {most} bytes, and it should have fewer")
        told = heartbeat(beat, most=most, error=more)
        try:
            self._fs().get_file(where, str(into), callback=told)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"{setting}: {into.parent}: {error.strerror}; free some space or choose another "
                "folder"
            ) from None

    def _size(self, where: str) -> int | None:
        try:
            return self._fs().info(where).get("size")
        except FileNotFoundError as error:
            cause = error.__cause__  # over HTTP, where any failure is told as this one
            absent = self.protocol == "s3" or getattr(cause, "status", None) in (404, 410)
            if absent or not isinstance(cause, Exception):
                raise
            raise cause from None

    def _fs(self) -> Any:
        """The file system, opened once in each process (its event loop does not survive a fork)."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), self._open())
            except ImportError as error:
                extra = _EXTRAS[self.protocol]
                raise UserError(
                    f"{self.where}: {self.protocol}:// needs {error.name}; "
                    f"run: pip install 'navsynth[{extra}]'"
                ) from None
        return self._opened[1]

    def _open(self) -> Any:
        import fsspec

        if self.protocol == "s3":
            waits = {"connect_timeout": self.timeout, "read_timeout": self.timeout}
            options: dict[str, Any] = {"config_kwargs": {**waits, "retries": {"max_attempts": 1}}}
            # More at once, and s3fs takes a large file for a few ranges, writes nothing before
            # all of them are there and tells of nothing meanwhile: as if the store were dead.
            options["max_concurrency"] = 1
        else:
            import aiohttp

            limit = aiohttp.ClientTimeout(
                total=None, sock_connect=self.timeout, sock_read=self.timeout
            )
            options = {"client_kwargs": {"timeout": limit}}
        return fsspec.filesystem(self.protocol, skip_instance_cache=True, **options)

    def _guarded(
        self,
        name: str,
        call: Callable[[Callable[[], None]], T],
        *,
        stop: threading.Event | None = None,
    ) -> T:
        """Run `call(beat)` with retries in a thread of its own and watch its heart."""
        watch = Watch(self.timeout, stop or self._stop)
        watch.beat()

        def tries() -> T:
            retrying = tenacity.Retrying(
                stop=lambda state: state.attempt_number >= self.attempts or watch.over(),
                wait=_WAITS,
                retry=tenacity.retry_if_exception(lambda error: not _permanent(error)),
                before_sleep=watch.failed,
                reraise=True,
            )
            return retrying(call, watch.beat)

        result = watch.run(tries)
        self.retries += watch.failures
        if isinstance(result, Failure):
            raise self._explain(name, result.error) from None
        return result

    def _explain(self, name: str, error: BaseException | None) -> UserError:
        """One line for what went wrong with a file."""
        if isinstance(error, UserError):
            return error
        if isinstance(error, FileNotFoundError):
            return UserError(f"{self.url(name)}: not in the store; check data.manifest")
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200] if error else "silence"
        return UserError(
            f"{self.url(name)}: the store gave nothing within {self.timeout:g} s or "
            f"{self.attempts} tries ({reason}); check address, network and access, "
            "or raise data.timeout_seconds"
        )


def _permanent(error: BaseException) -> bool:
    """Whether trying again cannot help: missing, forbidden, or refused by the server (4xx)."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    named = getattr(error, "errno", None) in _NAMES
    return refused or named or isinstance(error, _PERMANENT)
