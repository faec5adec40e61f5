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
