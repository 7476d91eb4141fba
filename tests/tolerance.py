"""The error bound that the tests hold results to, derived from the arithmetic."""

import numpy as np

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-24}  # sums of bfloat16: float32
BFLOAT16_UNIT = 2.0**-8  # its rounding of the result, doubled for where the sum sits on a tie


def assert_within(got, ref, magnitude, length, c=4.0):
    """|got - ref| <= c * u * sqrt(L) * magnitude, element by element.

    ``ref`` is the float64 result, ``magnitude`` the same op on absolute values, ``length`` L the
    number of terms of one sum, u the unit roundoff of the dtype of ``got``. A relative tolerance
    would fail by cancellation. The reference's own rounding is granted when ``got`` is float64.
    A bfloat16 result is summed in float32 and then rounded: 2**-8 |ref| more.
    """
    got = np.asarray(got)
    assert got.shape == np.shape(ref), f"shape {got.shape}, expected {np.shape(ref)}"
    bound = c * UNIT[got.dtype.name] * np.sqrt(max(length, 1)) * np.asarray(magnitude)
    if got.dtype.name == "bfloat16":
        bound = bound + BFLOAT16_UNIT * np.abs(ref)
    error = np.abs(got.astype(np.float64) - ref)
    # NaN fails: the comparison is false.
    bad = ~(error <= bound + np.finfo(np.float64).tiny)
    assert not bad.any(), (
        f"{bad.sum()} of {bad.size} elements outside the bound; worst error/bound "
        f"{np.nanmax(error / np.maximum(bound, np.finfo(np.float64).tiny)):.3g}; "
        f"first at {tuple(np.argwhere(bad)[0])}"
    )
