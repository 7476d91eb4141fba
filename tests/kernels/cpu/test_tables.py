"""Tables that the loops of convolution read: tiles of regions as they are drawn there."""

import numpy as np
import pytest

from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.conv2d.plan import dgrad_plan, fprop_plan
from convolt.kernels.cpu.tables import Pack, table


def test_records_become_rows_by_name():
    order = {"width": 7, "tap_count": 2, "to": 64, "group": 1, "taps": 5, "columns": 6, "first": 8}
    made = table(Pack, [Pack(**order), Pack(**order | {"to": 96})])
    assert {name: int(made[0][name]) for name in order} == order
    assert made["to"].tolist() == [64, 96]
    assert table(Pack, []).dtype is made.dtype  # so that Numba need not compare all fields
    with pytest.raises(TypeError):
        Pack(**{name: 0 for name in order if name != "group"})


def pixels(region):
    """Yield (where in y, whether it is a repeated one) for the rows of each tile of a region."""
    names = region.dtype.names
    at = {name: int(region[name]) for name in names}
    for outer in range(at["outer"]):
        for middle in range(0, at["middle"], at["lines"]):
            repeats = middle + at["lines"] > at["middle"]
            run = 0
            for place in range(at["tiles_in_line"]):
                short = place >= at["long"]
                count = (at["rows"] - short) // at["lines"]
                for line in range(at["lines"]):
                    y = at["y_first"] + outer * at["y_outer"]
                    y += (middle - repeats + line) * at["y_middle"] + run * at["y_row"]
                    for m in range(count):
                        yield y + m * at["y_row"], repeats and line == 0
                run += count
            assert run == at["run"]


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "window"),
    [
        ((3, 31, 29, 8), (40, 3, 3, 8), {"padding": 1}),
        ((5, 7, 7, 8), (40, 3, 3, 8), {"padding": 1}),  # lines so short that two fill a tile
        ((2, 15, 13, 3), (3, 5, 5, 3), {"padding": 2, "stride": 2}),  # blocks of pixels
        ((2, 20, 17, 32), (32, 3, 3, 1), {"padding": 1, "groups": 32}),
    ],
)
def test_every_pixel_is_in_one_tile_but_for_repeated_lines(x_shape, w_shape, window):
    size = Conv2dSize.of(x_shape, w_shape, **window)
    for plan, shape in (
        (fprop_plan(size, "float32", 2), size.y_shape),
        (dgrad_plan(size, "float32", 2), size.x_shape),
    ):
        found = [pixel for region in plan.regions for pixel in pixels(region)]
        first = sorted(y for y, repeated in found if not repeated)
        n, height, width, channels = shape
        rows = range(0, n * height * width * channels * 4, width * channels * 4)
        step = plan.block * channels * 4
        assert first == [row + at for row in rows for at in range(0, width * channels * 4, step)]
        assert {y for y, repeated in found if repeated} <= set(first)
        tiles = [
            int(np.prod([r["outer"], -(-r["middle"] // r["lines"]), r["tiles_in_line"]]))
            for r in plan.regions
        ]
        assert tiles == plan.regions["tiles"].tolist()
