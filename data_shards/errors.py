"""The one exception for mistakes that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one line: it names the file or setting and says what to do.

    Entry points print it without a traceback and leave with exit code 2.
    """
