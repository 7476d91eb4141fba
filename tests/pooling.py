"""Pooling windows enumerated one by one, from the definition; sizes that are awkward to pool."""

import numpy as np

# name: (x (N,H,W,C), window)
POOLINGS = {
    "2x2": ((2, 4, 6, 3), {"kernel_size": 2}),
    "one_of_everything": ((1, 1, 1, 1), {"kernel_size": 1}),
    "row_and_column_left_out": ((2, 5, 7, 3), {"kernel_size": 2}),
    "overlapping": ((2, 7, 5, 3), {"kernel_size": 3, "stride": 1}),
    "resnet_stem": ((1, 8, 9, 5), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "sides_differ": (
        (1, 9, 8, 2),
        {"kernel_size": (4, 3), "stride": (2, 3), "padding": (2, 1)},
    ),
    "stride_larger_than_kernel": ((2, 7, 11, 1), {"kernel_size": 2, "stride": 3}),
    "stride_larger_than_image": ((1, 2, 3, 1), {"kernel_size": 1, "stride": 5}),
    "whole_image": ((3, 5, 4, 7), {"kernel_size": (5, 4)}),
    "kernel_larger_than_image": ((1, 2, 3, 2), {"kernel_size": 4, "stride": 1, "padding": 2}),
    "ceil": ((2, 5, 7, 3), {"kernel_size": 2, "ceil_mode": True}),
    "ceil_reaches_beyond_padding": (
        (1, 6, 8, 2),
        {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
    ),
    "ceil_drops_window_on_padding": (
        (1, 4, 3, 2),
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    ),
    "ceil_larger_than_image": ((1, 3, 4, 2), {"kernel_size": 4, "stride": 2, "ceil_mode": True}),
    "row": ((2, 1, 17, 3), {"kernel_size": (1, 3), "stride": 2}),
    "primes": ((3, 13, 11, 37), {"kernel_size": (5, 3), "stride": (3, 2), "padding": (2, 1)}),
    "packs_of_channels": (
        (2, 7, 6, 16),
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
    ),
    "empty_batch": ((0, 5, 6, 3), {"kernel_size": 3, "stride": 2, "padding": 1}),
}
DILATED = {
    "dilation": ((1, 9, 7, 3), {"kernel_size": (3, 2), "stride": 1, "dilation": (2, 3)}),
    "dilation_and_packs_of_channels": (
        (1, 8, 7, 8),
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": (2, 3)},
    ),
    "dilation_and_stride": (
        (2, 11, 10, 2),
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    ),
    "dilation_over_the_image": (
        (1, 3, 5, 2),
        {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True},
    ),
    "dilation_larger_than_image": (
        (1, 2, 9, 2),
        {"kernel_size": 2, "stride": 3, "dilation": (3, 2), "ceil_mode": True},
    ),
}


def starts(length, taps, stride, pad, dilation, ceil_mode):
    """First pixel of each window along one axis, window after window."""
    result, start, reach = [], -pad, (taps - 1) * dilation + 1
    while start + reach <= length + pad:
        result.append(start)
        start += stride
    # One more with ceil_mode, if the last one leaves pixels out; it must start on the image or
    # before it.
    if ceil_mode and start - stride + reach < length + pad and start < length:
        result.append(start)
    return result


def windows(
    x_shape, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False
) -> tuple[tuple[int, int], dict]:
    """Return (P, Q) and, for each (p, q), its cells [(r*S + s, h, w)], on the image or not."""

    def both(value):
        return value if isinstance(value, tuple) else (value, value)

    (r_taps, s_taps), (dilation_h, dilation_w) = both(kernel_size), both(dilation)
    axes = zip(
        x_shape[1:3],
        both(kernel_size),
        both(kernel_size if stride is None else stride),
        both(padding),
        both(dilation),
        strict=True,
    )
    tops, lefts = (starts(*axis, ceil_mode) for axis in axes)
    cells = {}
    for p, top in enumerate(tops):
        for q, left in enumerate(lefts):
            cells[p, q] = [
                (r * s_taps + s, top + r * dilation_h, left + s * dilation_w)
                for r, s in np.ndindex(r_taps, s_taps)
            ]
    return (len(tops), len(lefts)), cells


def on_image(x_shape, cells):
    """Return those ``cells`` that are not on the padding."""
    return [(t, h, w) for t, h, w in cells if 0 <= h < x_shape[1] and 0 <= w < x_shape[2]]
