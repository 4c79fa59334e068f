"""Errors that a user can act on: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EEXIST: "a file is in the way of that folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
}


class UserError(Exception):
    """A mistake or a condition that the user can mend.

    The message says what is wrong, where, and, whenever there is one, the next thing to type.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean a, b?)"`` for the known names nearest to ``word``, else all of them, else ``""``."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f" (did you mean {', '.join(near)}?)"
    return f" (known: {', '.join(names)})" if names else ""


def describe_os_error(error: OSError) -> str:
    """Say in one line what a failed file operation ran into, naming the file where the system named it."""
    reason = _DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename}: {reason}" if error.filename else reason


def run_guarded(action: Callable[[], int | None]) -> int:
    """Run a command and turn what a user can mend into one line on stderr and exit code 2.

    Returns the exit code: the command's own (None counts as 0), 2 for :class:`UserError` and for disk errors, 130
    after Ctrl-C. Anything else is a bug and keeps its traceback.
    """
    try:
        return action() or 0
    except UserError as error:
        message = " ".join(str(error).split())
    except OSError as error:
        if error.errno not in _DISK_ERRORS and not isinstance(error, FileNotFoundError):
            raise
        message = describe_os_error(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stderr.write(f"error: {message}\n")
    return 2
