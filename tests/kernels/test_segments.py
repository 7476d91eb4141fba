import numpy as np
import pytest

from convolt.kernels import adam, sgd
from convolt.kernels.segments import CHUNK, STEP, chunks

SGD = np.array([[0.1, 0, 0, 0, 0, 0]])
ADAM = np.array([[0.1, 0.9, 0.99, 1e-8, 0, 0, 0, 0]])


def step_both(segments, length=256, dtype=np.float32):
    segments = np.array(segments, np.int64)
    buffers = np.ones((4, length), dtype)
    sgd.step(buffers[0], buffers[1], None, segments, SGD)
    adam.step(*buffers, None, segments, ADAM)
    return segments


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([[0, -1, 0, 1, 0]], "segment 0, .* has a negative size"),
        ([[-64, 10, 0, 1, 0]], "segment 0, .* leaves the buffers of 256 elements"),
        ([[0, 10, 0, 1, 0], [192, 65, 0, 1, 0]], "segment 1, .* leaves the buffers"),
        ([[2**63 - 64, 2**63 - 1, 0, 1, 0]], "leaves the buffers"),
        ([[32, 10, 0, 1, 0]], "segment 0, .* does not start on 256 bytes"),
        ([[0, 65, 0, 1, 0], [64, 10, 0, 1, 0]], "segment 1, .* overlaps another"),
        ([[64, 10, 0, 1, 0], [0, 65, 0, 1, 0]], "segment 0, .* overlaps another"),
        ([[64, 10, 0, 1, 0], [64, 10, 0, 0, 0]], "overlaps another"),
        ([[0, 10, 1, 1, 0]], "segment 0, .* of a group that hyper, of 1 rows, does not have"),
        ([[0, 10, -1, 1, 0]], "of a group"),
        ([[0, 10, 0, 2, 0]], "must have active 0 or 1"),
        ([[0, 10, 0, 1, -3]], "has a negative step"),
    ],
)
def test_unsound_segments_are_an_error(backend, segments, message):
    for op, columns in ((sgd, SGD), (adam, ADAM)):
        buffers = np.ones((4, 256), np.float32)
        rest = (None,) if op is sgd else (buffers[2], buffers[3], None)
        with pytest.raises(ValueError, match=f"^{op.__name__.rpartition('.')[2]}: .*{message}"):
            op.step(buffers[0], buffers[1], *rest, np.array(segments), columns)
        assert np.all(buffers == 1)
    assert step_both([[0, 10, 0, 1, 0]])[0, STEP] == 2


def test_sound_segments(backend):
    # Neighbours without a gap, in any order; an empty one where another starts; the buffers' end.
    segments = step_both([[128, 128, 0, 1, 0], [0, 64, 0, 1, 0], [64, 64, 0, 0, 0]])
    assert segments[:, STEP].tolist() == [2, 2, 0]
    assert step_both([[64, 5, 0, 1, 0], [64, 0, 0, 1, 0]])[:, STEP].tolist() == [2, 2]
    assert step_both([[256, 0, 0, 1, 7]])[:, STEP].tolist() == [9]
    # 256 bytes are 32 elements of float64.
    assert step_both([[32, 10, 0, 1, 0]], dtype=np.float64)[0, STEP] == 2


def test_chunks_cover_the_active_segments_once():
    sizes = [CHUNK, 1, 2 * CHUNK + 3, 0, 5]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    active = [1, 1, 1, 1, 0]
    segments = np.stack([starts, sizes, [0] * 5, active, [0] * 5], axis=1)
    pieces = chunks(segments)
    assert pieces.tolist() == [
        [0, 0, CHUNK],
        [1, CHUNK, CHUNK + 1],
        [2, CHUNK + 1, 2 * CHUNK + 1],
        [2, 2 * CHUNK + 1, 3 * CHUNK + 1],
        [2, 3 * CHUNK + 1, 3 * CHUNK + 4],
    ]
