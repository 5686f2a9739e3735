"""Exceptions that decide how a program ends."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one line: it names the file or setting and says what to do.

    Entry points print it without a traceback and leave with exit code 2.
    """


class LoaderLost(RuntimeError):  # noqa: N818
    """A loader process is gone: killed, or out of memory. The same command again goes on."""
