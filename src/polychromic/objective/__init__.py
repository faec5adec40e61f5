"""Set-level objectives as pure functions on arrays: advantages, losses, balance and audit. Needs no torch to import."""

from polychromic.objective.advantages import set_advantages, subset_mean

__all__ = ["set_advantages", "subset_mean"]
