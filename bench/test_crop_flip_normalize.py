import numpy as np
import pytest

from convolt.kernels import crop_flip_normalize


@pytest.mark.benchmark(group="crop_flip_normalize")
def test_crop_flip_normalize(timed):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (128, 32, 32, 3), np.uint8)
    placement = generator.integers(-4, 5, (128, 3)).astype(np.int32)
    placement[:, crop_flip_normalize.FLIP] %= 2
    offset, scale = np.full(3, 120, np.float32), np.full(3, 1 / 60, np.float32)
    x = images.transpose(0, 3, 1, 2)
    timed(crop_flip_normalize.forward, x, placement, offset, scale)
