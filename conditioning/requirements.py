"""What posterior methods require of a measurement, with the sentence that refuses another."""

from .measurements import LinearOperator, Measurement, SpectralOperator


def linear(measurement: Measurement, who: str) -> LinearOperator:
    """The operator of a measurement, for a method that needs its adjoint or pseudo-inverse.

    Args:
        measurement: Measurement.
        who: The method, as the error names it.

    Raises:
        ValueError: The operator is not linear.
    """
    operator = measurement.operator
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            f"{who} needs a linear measurement, got {type(operator).__name__}; use DPS() or "
            "DPSSampler, which differentiate any measurement"
        )
    return operator


def spectral(measurement: Measurement, who: str) -> SpectralOperator:
    """The operator of a measurement, for a method that works on its singular vectors.

    Args:
        measurement: Measurement.
        who: The method, as the error names it.

    Raises:
        ValueError: The operator is not linear, or no singular value decomposition of it is known.
    """
    operator = linear(measurement, who)
    if not isinstance(operator, SpectralOperator):
        raise ValueError(
            f"{who} works on the singular vectors of the measurement, and {type(operator).__name__}"
            " states none; use PiGDM() or MMPS(), which need products with it alone, or Matrix(…)"
        )
    return operator
