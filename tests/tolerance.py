"""The error bound that the tests hold results to, derived from the arithmetic."""

import numpy as np

UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


def assert_within(got, ref, magnitude, length, c=4.0):
    """|got - ref| <= c * u * sqrt(L) * magnitude, element by element.

    ``ref`` is the float64 result, ``magnitude`` the same op on absolute values, ``length`` L the
    number of terms of one sum, u the unit roundoff of the dtype of ``got``. A relative tolerance
    would fail by cancellation. The reference's own rounding is granted when ``got`` is float64.
    """
    got = np.asarray(got)
    assert got.shape == np.shape(ref), f"shape {got.shape}, expected {np.shape(ref)}"
    bound = c * UNIT[got.dtype] * np.sqrt(max(length, 1)) * np.asarray(magnitude)
    error = np.abs(got.astype(np.float64) - ref)
    # NaN fails: the comparison is false.
    bad = ~(error <= bound + np.finfo(np.float64).tiny)
    assert not bad.any(), (
        f"{bad.sum()} of {bad.size} elements outside the bound; worst error/bound "
        f"{np.nanmax(error / np.maximum(bound, np.finfo(np.float64).tiny)):.3g}; "
        f"first at {tuple(np.argwhere(bad)[0])}"
    )
