"""How far predictions were off."""

WEIGHT = 0.02
"""Of the newest prediction in the moving averages: about the last fifty count."""


class PredictionError:
    """Moving averages over the latest predictions of one quantity, in the quantity's own unit."""

    def __init__(self) -> None:
        self.count = 0
        self.mean_absolute = 0.0
        self.mean_signed = 0.0
        """Above 0: things take longer than predicted."""
        self.mean_actual = 0.0

    @property
    def relative(self) -> float:
        """The mean absolute error as a share of the mean actual value; 0 before there is any."""
        return self.mean_absolute / self.mean_actual if self.mean_actual > 0 else 0.0

    def add(self, predicted: float, actual: float) -> None:
        """One more prediction has met the truth."""
        self.count += 1
        weight = max(WEIGHT, 1 / self.count)
        error = actual - predicted
        self.mean_absolute += weight * (abs(error) - self.mean_absolute)
        self.mean_signed += weight * (error - self.mean_signed)
        self.mean_actual += weight * (actual - self.mean_actual)
