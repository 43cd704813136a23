"""Errors that are the user's to mend: the command line prints their one line and exits with 2."""


class InputError(ValueError):
    """Input or arguments that leave nothing to do. The message is one line that says what and why."""


class StudyError(InputError):
    """A study that cannot be used."""


class DataError(InputError):
    """A dataset or split that cannot be used."""


class RunError(InputError):
    """A run folder that cannot be opened or gone on with."""


class TrainingDiverged(InputError):
    """The loss is not finite any more; the message names the step, `metrics` are that step's."""

    def __init__(self, message: str, metrics: dict[str, float] | None = None):
        super().__init__(message)
        self.metrics = metrics or {}


class Preempted(Exception):
    """Training was asked to stop (SIGTERM) and has saved everything; the same command goes on."""


def one_line(error: BaseException) -> str:
    """What a library's error says, as part of one of our lines."""
    return " ".join(str(error).split())[:160] or type(error).__name__
