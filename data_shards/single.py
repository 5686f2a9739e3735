"""Single clips of a remote store: their bytes alone, where the whole shard would be a waste.

A training fetches shards whole, and ahead. Whoever looks at a few clips (a sample sheet,
`generate`, `fit`, `evaluate`) asks for their byte ranges, until a quarter of a shard was asked for.
A range only ever finds a clip whole: where one is not what the clip table says, the shard is
fetched, and judged as for a training.
"""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from data_shards.errors import UserError
from data_shards.heart import heartbeat
from data_shards.manifest import Shard

if TYPE_CHECKING:
    from data_shards.cache import NodeCache
    from data_shards.store import Store

_SHARE = 4
"""One part in so many of a shard's bytes comes in ranges at most."""
_PIECE = 1 << 20
"""Bytes that S3 is asked for at a time: each piece is a sign of life."""

log = logging.getLogger("navsynth")


class NoRangesError(UserError):
    """A server sends more of a file than the range that it was asked for."""


class Singles:
    """Reads clips of one remote data set by their byte ranges, for all its readers together."""

    def __init__(self, store: Store, cache: NodeCache) -> None:
        self.store, self.cache = store, cache
        self._asked: Counter[str] = Counter()
        """Bytes of each shard that came in ranges."""
        self._refused = False
        self._lock = threading.Lock()

    def read(
        self,
        shard: Shard,
        records_G: np.ndarray,
        judged: Callable[[list[bytes]], list[tuple[bytes, str]]],
    ) -> list[tuple[bytes, str]]:
        """What `judged` makes of the bytes of some clips of one shard; nothing where the shard is
        to be read whole: it is on this node, or much of it is wanted, or a range was not right.

        Raises:
            UserError: the shard is out of reach.
        """
        if self._refused or self.cache.has(shard):
            return []
        with self._lock:
            self._asked[shard.file] += int(records_G["size"].sum())
            if _SHARE * self._asked[shard.file] > shard.bytes:
                self._asked.pop(shard.file)  # a copy that is dropped again begins anew
                return []
        places = zip(records_G["offset"].tolist(), records_G["size"].tolist(), strict=True)
        try:
            spans = [self.store.span(shard.file, start=start, size=size) for start, size in places]
        except NoRangesError as error:
            with self._lock:
                if not self._refused:
                    log.warning("%s; its shards are fetched whole, also for single clips", error)
                self._refused = True
            return []
        found = judged(spans)
        if problem := next((problem for _, problem in found if problem), ""):
            url = self.store.url(shard.file)
            log.warning("%s: a single clip: %s; the whole shard is fetched to judge", url, problem)
            return []
        return found


def byte_range(fs: Any, url: str, *, start: int, size: int, beat: Callable[[], None]) -> bytes:
    """Some bytes of a remote file, fewer where it ends before; `beat` is called as they come.

    Raises:
        NoRangesError: more came than was asked for.
    """
    end, into = start + size, io.BytesIO()
    more = NoRangesError(f"{url}: the server ignores Range and sends the whole file")
    try:
        if url.startswith("s3://"):  # its `get_file` takes whole objects alone
            for at in range(start, end, _PIECE):
                into.write(fs.cat_file(url, start=at, end=min(at + _PIECE, end)))
                beat()
        else:  # `cat_file` would hold all that a server sends, and tell of nothing meanwhile
            headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
            told = heartbeat(beat, most=size, error=more)
            fs.get_file(url, into, callback=told, headers=headers)
    except Exception as error:
        if not _behind_the_end(error):
            raise
    if into.tell() > size:
        raise more
    return into.getvalue()


def _behind_the_end(error: Exception) -> bool:
    """Whether a store says that a file ends before a range begins (416)."""
    answer = getattr(error.__cause__, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else ""
    return getattr(error, "status", None) == 416 or code in ("416", "InvalidRange")
