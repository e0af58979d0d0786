"""What the learning rate of all arrays may be, and what to write instead of what it may not."""

from __future__ import annotations

from math import inf
from typing import Any

from etude.errors import SettingError
from etude.step.optim.rule import Setting

_RATES = {
    "plateau": '3e-4 * plateau("val.loss")',
    "newbob": 'newbob("val.loss", start=3e-4)',
    "warmup": "3e-4 * warmup(steps(500))",
    "cycle": "one_cycle(3e-4)",
    "constant": "3e-4",
    "linear": "linear(3e-4, 0)",
    "exponential": "exponential(3e-4, 3e-6)",
    "cosine": "cosine(3e-4, 0)",
}
"""What to write for schedules that are named in text."""
RATE_BY_RULE = Setting(1e-3, -inf, inf)
"""What the rate of an array may be; a negative one climbs."""


def check_rate(rate: Any, said: str = "learning_rate") -> None:
    """Raise SettingError unless `rate` can be the learning rate of all arrays: finite, and not below 0."""
    if isinstance(rate, str):
        raise SettingError(f"{said}={rate!r}: a finite number is needed, or a schedule, not its name.{_rate_for(rate)}")
    RATE_BY_RULE.check(said, rate)
    if rate < 0:
        raise SettingError(
            f"{said}={rate!r}: a learning rate is not negative. To climb a loss write learning_rate_multipliers=-1, or "
            "-1 for the part that climbs."
        )


def _rate_for(text: str) -> str:
    """What to write for a learning rate that was given as text."""
    try:
        return f" Write learning_rate={float(text):g}, without quotes."
    except ValueError:
        names = [name for name in _RATES if name in text.lower().replace("_", "")]
        return f" Write learning_rate={_RATES[names[0]] if names else _RATES['cosine']}."
