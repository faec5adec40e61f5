"""Follows a run: its ledger and what is left of it (`follow`), and what the terminal shows (`display`)."""

from polychromic.experiment.progress.follow import BUDGET, Key, Ledger, Projection, paid

__all__ = ["BUDGET", "Key", "Ledger", "Projection", "paid"]
