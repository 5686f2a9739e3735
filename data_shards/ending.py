"""How a command line ends where the disk refuses or Ctrl-C comes: one line and a code."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence

from data_shards.disk import DISK_ERRORS

REFUSED, STOPPED = 2, 130
TOLD = {*DISK_ERRORS, errno.ENOENT, errno.EISDIR, errno.EEXIST}
"""What a disk says that the user can mend."""


def ended(main: Callable[..., int]) -> Callable[..., int]:
    """A command line (`main(argv)`) that ends in one line and a code, and in no traceback, where a
    file cannot be written or read (2), or where it is stopped by Ctrl-C (130). Who reads the output
    no further (`| head`) ends it quietly."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            code = main(argv)
            sys.stdout.flush()  # what nobody reads is an error here and not at the very end
            return code
        except BrokenPipeError:
            # Python would complain about what it has not written yet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return STOPPED
        except OSError as error:
            if error.errno not in TOLD or not error.filename:
                raise
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return STOPPED

    return wrapped
