"""A run of any length in a bounded number of points."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["History", "Point"]


@dataclass(frozen=True, slots=True)
class Point:
    """A stretch of time, in sums: two neighbours add up to one, exactly.

    Parameters
    ----------
    begin, end
        In seconds since 1970.
    samples
        Samples learned in it.
    loss_sum, loss_weight
        The sum of their weighted losses, and of their weights.
    progressive_loss, metrics
        As they stood at its end.
    lag
        The highest in it.

    Examples
    --------
    >>> from streamfit.serving.history import Point
    >>> both = Point(0.0, 1.0, 10, 5.0, 10.0) + Point(1.0, 3.0, 30, 30.0, 30.0)
    >>> both.samples_per_second, both.loss
    (13.333333333333334, 0.875)
    """

    begin: float
    end: float
    samples: int
    loss_sum: float
    loss_weight: float
    progressive_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    lag: int | None = None

    @property
    def loss(self) -> float | None:
        """Mean loss of the samples in it."""
        return self.loss_sum / self.loss_weight if self.loss_weight else None

    @property
    def samples_per_second(self) -> float:
        """Rate at which they were learned."""
        return self.samples / max(self.end - self.begin, 1e-9)

    def __add__(self, later: Point) -> Point:
        lag = later.lag if self.lag is None else self.lag
        return Point(
            self.begin,
            later.end,
            self.samples + later.samples,
            self.loss_sum + later.loss_sum,
            self.loss_weight + later.loss_weight,
            later.progressive_loss,
            later.metrics,
            lag if lag is None or later.lag is None else max(lag, later.lag),
        )


class History:
    """Points at the finest resolution that fits.

    When there are `limit` of them, neighbours are added up two by two, and from then on each
    new point collects twice as many. So a month costs what a minute costs, and nothing is
    dropped: the samples of all points are the samples of the run.

    Parameters
    ----------
    limit
        Points there may be; even.
    n_recent
        How many of the latest stay as they are besides.

    Examples
    --------
    >>> from streamfit.serving.history import History, Point
    >>> history = History(limit=4)
    >>> for second in range(9):
    ...     history.add(Point(second, second + 1.0, 100, 0.0, 0.0))
    >>> [(point.begin, point.end, point.samples) for point in history.points]
    [(0, 4.0, 400), (4, 8.0, 400), (8, 9.0, 100)]
    """

    def __init__(self, limit: int = 512, n_recent: int = 600) -> None:
        self.points: list[Point] = []
        self.recent: deque[Point] = deque(maxlen=n_recent)
        self._limit = limit
        self._width = 1  # how many a point collects
        self._in_last = 0

    def add(self, point: Point) -> None:
        """Take in what has happened since the point before."""
        self.recent.append(point)
        if self.points and self._in_last < self._width:
            self.points[-1] += point
            self._in_last += 1
            return
        if len(self.points) == self._limit:
            self.points = [
                first + second
                for first, second in zip(self.points[::2], self.points[1::2], strict=True)
            ]
            self._width *= 2
        self.points.append(point)
        self._in_last = 1
