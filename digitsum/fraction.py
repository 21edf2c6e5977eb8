"""Fractions as users write them: a percentage such as 0.1%, or a fraction such as 0.001."""

from __future__ import annotations

from digitsum.errors import InputError


def parse_fraction(option: str, text: str) -> float:
    """Return the fraction, 0..1, that an option was given; raises InputError, naming it."""
    number = text.strip()
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        raise InputError(
            f"{option} {text}: give a percentage such as 0.1%, or a fraction such as 0.001."
        ) from None
    value = value / 100 if number.endswith("%") else value
    if not 0 <= value <= 1:
        raise InputError(f"{option} {text}: give 0% to 100%.")
    return value
