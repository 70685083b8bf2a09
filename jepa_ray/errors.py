"""The errors a user can meet. Everything else that escapes is a bug.

`ConfigError` and `DataError` are bad input: one line, exit code 2. `TrialError` is a trial (or the
group that trained it) that failed: the sweep records it and goes on.
"""


class JepaRayError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(JepaRayError):
    """A config, a sweep spec or a command line that breaks a rule. Says file, key, value and rule."""

    exit_code = 2


class DataError(JepaRayError):
    """A dataset that cannot be trained on. Says file, column, evidence and rule."""

    exit_code = 2


class TrialError(JepaRayError):
    """A trial that could not go on: a loss that is not finite, or a worker group that died."""


class GroupDiedError(TrialError):
    """The worker group is gone; another one may continue the trial from its checkpoint."""


class GroupStartError(GroupDiedError):
    """A worker group that never came up: nothing can be trained until the cause is mended."""


class StorageError(JepaRayError):
    """What a sweep has to write cannot be written: the disk is full, or a server is gone. Ends it; nothing is lost."""


class Interrupted(JepaRayError):
    """Ctrl-C or SIGTERM: what was learned is kept, and the same command continues."""

    exit_code = 130
