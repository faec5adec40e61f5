"""The `budget` section of an experiment file: what an hour costs, and where to stop."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from polychromic.settings import Settings


class BudgetSettings(Settings):
    """Caps on the whole run, over all starts. At a cap the run saves its work, stops, and says what is left."""

    dollars_per_hour: float | None = Field(default=None, gt=0)
    """Price of the machine."""
    max_dollars: float | None = Field(default=None, gt=0)
    max_hours: float | None = Field(default=None, gt=0)
    """Wall hours of the machine, however many workers share it."""

    @model_validator(mode="after")
    def _dollars_have_a_price(self) -> Self:
        if self.max_dollars is not None and self.dollars_per_hour is None:
            raise ValueError("max_dollars needs dollars_per_hour, the price of the machine")
        return self

    def dollars(self, seconds: float) -> float | None:
        """Price of machine seconds, None where no price is stated."""
        return None if self.dollars_per_hour is None else seconds / 3600 * self.dollars_per_hour

    def exceeded(self, seconds: float, dollars: float | None = None) -> str:
        """Which cap the machine seconds reach, in words; empty while there is room.

        `dollars` where more is known of them than today's price: earlier starts may have had another.
        """
        dollars = self.dollars(seconds) if dollars is None else dollars
        if self.max_dollars is not None and dollars is not None and dollars >= self.max_dollars:
            return f"budget.max_dollars = {self.max_dollars:g} is reached (${dollars:.4g} spent)"
        if self.max_hours is not None and seconds >= self.max_hours * 3600:
            return f"budget.max_hours = {self.max_hours:g} is reached"
        return ""
