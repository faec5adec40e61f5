"""The errors that users see: each message names the place, what was expected and the mend."""


class PolychromicError(Exception):
    """Base of every error that Polychromic raises on purpose; the command line prints it without a traceback."""


class ConfigError(PolychromicError):
    """An experiment file, key or value that cannot be used."""


class DataError(PolychromicError):
    """A data file with lines that cannot be used; all bad lines are listed at once."""


class ModelError(PolychromicError):
    """A model, adapter or tokenizer that cannot be found, verified or used."""


class CheckerError(PolychromicError):
    """A checker that cannot be built or that failed on more generations than the stated share."""


class PreflightError(PolychromicError):
    """A check that failed before any money was spent."""


class TrainingError(PolychromicError):
    """Training that cannot go on, with the reason found."""


class BudgetError(PolychromicError):
    """The stated cap of time or money is reached; the message says what is left to do and what it would cost."""


class StoppedError(PolychromicError):
    """Work that ended at a safe point because it was asked to. Everything done is kept."""

    def __init__(self, reason: str, done: str, exit_code: int = 1) -> None:
        super().__init__(reason, done, exit_code)
        self.reason, self.done, self.exit_code = reason, done, exit_code

    def __str__(self) -> str:
        return f"stopped by {self.reason}; {self.done}; run the same command again to continue"
