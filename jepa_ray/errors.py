"""The errors that a user can cause. Every other exception that reaches the user is a bug.

`ConfigError` and `DataError` mean bad input: one line and exit code 2. A `TrialError` ends only its trial: the sweep
records it and continues.
"""


class JepaRayError(Exception):
    """Base class of all errors that this package raises on purpose."""

    exit_code = 1


class ConfigError(JepaRayError):
    """A config, a sweep spec or a command line that breaks a rule. Names the file, key, value and rule."""

    exit_code = 2


class DataError(JepaRayError):
    """A dataset that cannot be used for training. Names the file, column, evidence and rule."""

    exit_code = 2


class TrialError(JepaRayError):
    """A trial that could not continue, because of a loss that is not finite or a worker group that died."""


class GroupDiedError(TrialError):
    """The worker group died. Another group may continue the trial from its checkpoint."""


class GroupStartError(GroupDiedError):
    """The worker group did not start. Nothing can be trained until the cause is fixed."""


class StorageError(JepaRayError):
    """Results cannot be written, because the disk is full or a server is unreachable. Ends the sweep without losses."""


class Interrupted(JepaRayError):
    """Ctrl-C or SIGTERM. All results so far are kept, and the same command continues."""

    exit_code = 130


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message; the class name of an error without a message, "" of an empty string."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    return "" if isinstance(error, str) else type(error).__name__
