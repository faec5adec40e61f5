"""Follows a run: ledger and what is left (`follow`), the terminal (`display`), page and diagnosis (`watch`)."""

from polychromic.experiment.progress.follow import BUDGET, Key, Ledger, Projection, paid

__all__ = ["BUDGET", "Key", "Ledger", "Projection", "paid"]
