"""Every error frconvert raises on purpose: one class per broken promise, each with its exit status.

A message is one line: what is wrong, where (file, tensor, byte offset), what to do. The command line prints
`str(error)` and exits with `error.exit_status`; it never shows a traceback for these.
"""


class FrqError(Exception):
    """Base of all errors of this package; catch this to catch them all."""

    exit_status = 3


class TargetError(FrqError):
    """A requested target (size, ratio, SNR, ...) cannot be met by this model, or a check failed."""

    exit_status = 1


class UsageError(FrqError):
    """The request itself makes no sense: contradictory options, a missing extra, no match."""

    exit_status = 2


class UnreadableError(FrqError):
    """The file is not there, may not be read, or its content is no checkpoint of any known format."""


class DamagedError(FrqError):
    """The file claims to be of a known format and breaks its rules (truncated, altered, hostile)."""


class UnsupportedError(FrqError):
    """The file is sound but holds something that cannot be read or written safely, or not yet."""


class WriteError(FrqError):
    """The destination cannot be written: no permission, no space, or the device failed."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Text of a foreign exception on one line of at most `limit` characters, for use inside a message."""
    return printable(" ".join(str(error).split()) or type(error).__name__, limit)


def printable(text: str, limit: int = 100) -> str:
    """Text out of a file for a message: what is unprintable escaped, cut to `limit` characters."""
    start = text[: limit + 1]
    if not start.isprintable():
        start = "".join(char if char.isprintable() else repr(char)[1:-1] for char in start)
    return start if len(start) <= limit else start[: limit - 3] + "..."


def quoted(name: str, limit: int = 100) -> str:
    """`repr` of a name out of a file, of about `limit` characters at most."""
    text = repr(name[: limit + 1])
    return text if len(text) <= limit + 2 else text[:limit] + "...'"
