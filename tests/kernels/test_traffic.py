"""Global traffic: counted by the emulator, against the formula in each kernel's comment.

Each case runs one op at three sizes. Every launch of a kernel must move what its comment says,
within 10 %: 32 bytes for each sector that a warp asks for. Sectors counted once are no more than it
says of DRAM, and where it has formulas for that no less. The ops that memory bounds have a
``least``, the bytes that their passes must move at least: they move no more than 1.1 times that
to and from DRAM (each byte once a launch), and use 95 % of the bytes of the sectors they touch.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from convolt.kernels import (
    activation,
    adam,
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    crop_flip_normalize,
    dropout,
    elementwise,
    emulator,
    indexing,
    layout,
    linear,
    max_pool2d,
    random,
    reduction,
    sgd,
    softmax_cross_entropy,
)
from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import implementation, use_backend
from convolt.kernels.conv2d import Conv2dSize, mma, wgmma
from convolt.kernels.conv2d.algorithm import Algorithm, empty_moments
from convolt.kernels.conv2d.choice import use_algorithm
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.cuda.table import all_kernels
from convolt.kernels.pooling_window import PoolSize
from convolt.kernels.precision import use_precision

SCALES = (1, 2, 3)
SECTOR_BYTES = 32
CASES = {}


@dataclass(frozen=True)
class Case:
    run: object  # scale -> least bytes, or None where memory does not bound the op
    entries: tuple


def case(*entries, name=None):
    """Make a case of a function from a scale, 1 to 3, to its least traffic in bytes, or None."""

    def add(run):
        CASES[name or run.__name__] = Case(run, entries)
        return run

    return add


def random_array(*shape, dtype=np.float32):
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


# ---- Element-wise, activations, layout -------------------------------------------------------


def elements(scale):
    return 16 * scale, 1024


for _name in ["relu", "leaky_relu", "sigmoid", "tanh"]:

    def _forward(scale, name=_name):
        x = random_array(*elements(scale))
        getattr(activation, name)(x, *((0.1,) if name == "leaky_relu" else ()))
        return 2 * x.nbytes

    def _backward(scale, name=_name):
        x = random_array(*elements(scale))
        slope = (0.1,) if name == "leaky_relu" else ()
        getattr(activation, f"{name}_backward")(x, x + 1, *slope)
        return 3 * x.nbytes

    case(f"activation_{_name}", name=_name)(_forward)
    case(f"activation_{_name}_backward", name=f"{_name}_backward")(_backward)

for _name in ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]:

    def _binary(scale, name=_name):
        x = random_array(*elements(scale))
        getattr(elementwise, name)(x, x + 1)
        return 3 * x.nbytes

    case(f"elementwise_{_name}", name=_name)(_binary)

for _name in ["equal", "not_equal", "less", "less_equal"]:

    def _comparison(scale, name=_name):
        x = random_array(*elements(scale))
        getattr(elementwise, name)(x, x + 1)
        return 2 * x.nbytes + x.size

    case(f"elementwise_{_name}", name=_name)(_comparison)

for _name in ["negative", "absolute", "sign", "exp", "log", "sqrt"]:

    def _unary(scale, name=_name):
        x = random_array(*elements(scale))
        getattr(elementwise, name)(x)
        return 2 * x.nbytes

    case(f"elementwise_{_name}", name=_name)(_unary)


@case("elementwise_where")
def where(scale):
    x = random_array(*elements(scale))
    elementwise.where(x > 0, x, x + 1)
    return 3 * x.nbytes + x.size


@case("elementwise_add", name="add_bias")
def add_bias(scale):
    x = random_array(*elements(scale))
    elementwise.add(x, random_array(1024))
    return 2 * x.nbytes + 4096


@case("layout_copy_tiled")
def to_channels_last(scale):
    x = random_array(2 * scale, 32, 16, 16)
    layout.channels_last(x)
    return 2 * x.nbytes


@case("layout_copy_tiled", name="to_channels_first")
def to_channels_first(scale):
    x = np.moveaxis(random_array(2 * scale, 16, 16, 32), -1, 1)
    layout.contiguous(x)
    return 2 * x.nbytes


@case("layout_copy_direct")
def copy(scale):
    x = random_array(*elements(scale))
    layout.copy(x)
    return 2 * x.nbytes


_TYPES = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": "bfloat16",
}
for _name, _dtype in _TYPES.items():

    def _cast(scale, dtype=_dtype):
        x = np.ones(elements(scale), dtype)
        y = layout.cast(x, np.float64 if x.dtype == np.float32 else np.float32)
        return x.nbytes + y.nbytes

    case(f"layout_convert_from_{_name}", name=f"cast_from_{_name}")(_cast)


@case("indexing_backward_runs", "layout_copy_direct")
def gather_backward(scale):
    index = np.arange(1024 * scale)
    indexing.backward(random_array(1024 * scale), index, (1024 * scale,))


# ---- Reductions ------------------------------------------------------------------------------


@case("reduction_sum")
def sum_of_rows(scale):
    x = random_array(64 * scale, 512)
    reduction.sum(x, 1)
    return x.nbytes + 4 * 64 * scale


@case("reduction_sum_parts", "reduction_sum_finish")
def sum_of_all(scale):
    x = random_array(256 * scale, 512)
    reduction.sum(x)
    return x.nbytes


@case("reduction_max")
def max_of_rows(scale):
    x = random_array(64 * scale, 512)
    reduction.max(x, 1)
    return x.nbytes + 4 * 64 * scale


@case("reduction_min")
def min_of_rows(scale):
    x = random_array(64 * scale, 512)
    reduction.min(x, 1)
    return x.nbytes + 4 * 64 * scale


# ---- Pooling, batch-norm ---------------------------------------------------------------------


def pooled(scale, **window):
    x = random_array(scale, 9, 8, 128)
    return x, PoolSize.of("pool", x.shape, **window)


for _name, _window in {"2x2": {"kernel_size": 2}, "3x3s2": {"kernel_size": 3, "stride": 2}}.items():

    def _max_pool(scale, window=_window):
        x, size = pooled(scale, **window)
        max_pool2d.forward(x, size)
        return size.bytes(4, 1)

    def _max_pool_backward(scale, window=_window):
        x, size = pooled(scale, **window)
        y, argmax = max_pool2d.forward(x, size)
        with emulator.record() as launches:
            max_pool2d.backward(y, argmax, size)
        return size.bytes(4, 1), launches

    def _avg_pool(scale, window=_window):
        x, size = pooled(scale, **window)
        avg_pool2d.forward(x, size)
        return size.bytes(4)

    def _avg_pool_backward(scale, window=_window):
        _, size = pooled(scale, **window)
        avg_pool2d.backward(random_array(*size.y_shape), size)
        return size.bytes(4)

    case("max_pool2d_forward_window", name=f"max_pool_{_name}")(_max_pool)
    case("max_pool2d_backward_gather", name=f"max_pool_backward_{_name}")(_max_pool_backward)
    case("avg_pool2d_forward_window", name=f"avg_pool_{_name}")(_avg_pool)
    case("avg_pool2d_backward_gather", name=f"avg_pool_backward_{_name}")(_avg_pool_backward)


@case("max_pool2d_indices_window")
def max_pool_indices(scale):
    _, size = pooled(scale, kernel_size=2)
    max_pool2d.indices(np.ones(size.y_shape, np.uint8), size)
    return 9 * int(np.prod(size.y_shape))


@case("adaptive_avg_pool2d_forward_window")
def adaptive_pool(scale):
    x = random_array(scale, 8, 8, 128)
    return x.nbytes + adaptive_avg_pool2d.forward(x, 4).nbytes


@case("adaptive_avg_pool2d_backward_gather")
def adaptive_pool_backward(scale):
    grad_y = random_array(scale, 4, 4, 128)
    return grad_y.nbytes + adaptive_avg_pool2d.backward(grad_y, (scale, 8, 8, 128)).nbytes


def normalized(scale):
    x = random_array(256 * scale, 64)
    return x, *(np.ones(64, np.float32) for _ in range(4))


@case("batch_norm_forward_moments", "batch_norm_forward_combine", "batch_norm_forward_normalize")
def batch_norm_forward(scale):
    x, *channels = normalized(scale)
    batch_norm.forward(x, *channels, 0.1, 1e-5)
    return 3 * x.nbytes


@case("batch_norm_backward_sums", "batch_norm_backward_combine", "batch_norm_backward_gradient")
def batch_norm_backward(scale):
    x, weight, *_ = normalized(scale)
    mean, inv_std = np.zeros(64), np.ones(64)
    batch_norm.backward(x + 1, x, mean, inv_std, weight)
    return 5 * x.nbytes


@case("batch_norm_forward_eval_statistics", "batch_norm_forward_normalize")
def batch_norm_forward_eval(scale):
    x, *channels = normalized(scale)
    batch_norm.forward_eval(x, *channels, 1e-5)
    return 2 * x.nbytes


@case(
    "batch_norm_forward_eval_statistics",
    "batch_norm_backward_sums",
    "batch_norm_backward_combine",
    "batch_norm_forward_normalize",
)
def batch_norm_backward_eval(scale):
    x, weight, _, running_mean, running_var = normalized(scale)
    batch_norm.backward_eval(x + 1, x, weight, running_mean, running_var, 1e-5)
    return 4 * x.nbytes


@case("batch_norm_forward_normalize", name="batch_norm_add_relu")
def batch_norm_add_relu(scale):
    x, *channels = normalized(scale)
    more = {"residual": x + 1, "activation": "relu", "signs": batch_norm.empty_signs(x)}
    batch_norm.forward(x, *channels, 0.1, 1e-5, **more)
    return 4 * x.nbytes


@case("batch_norm_backward_sums", "batch_norm_backward_gradient", name="batch_norm_relu_backward")
def batch_norm_relu_backward(scale):
    x, weight, *_ = normalized(scale)
    statistics = np.zeros(64), np.ones(64)
    batch_norm.backward(x + 1, x, *statistics, weight, weight, None, "relu")
    return 5 * x.nbytes


@case(
    "batch_norm_backward_sums",
    "batch_norm_backward_gradient",
    name="batch_norm_add_relu_backward",
)
def batch_norm_add_relu_backward(scale):
    x, weight, *_ = normalized(scale)
    statistics = np.zeros(64), np.ones(64)
    batch_norm.backward(x + 1, x, *statistics, weight, weight, x, "relu")
    return 6 * x.nbytes  # x is y here: 7 where they are two


@case("batch_norm_backward_gradient", name="batch_norm_relu_backward_eval")
def batch_norm_relu_backward_eval(scale):
    x, weight, bias, *running = normalized(scale)
    batch_norm.backward_eval(x + 1, x, weight, *running, 1e-5, bias, None, "relu")
    return 5 * x.nbytes


# ---- Products and convolutions ---------------------------------------------------------------


@case("linear_fprop_tiled", "linear_dgrad_tiled", "linear_wgrad_tiled", "linear_wgrad_sum")
def linear_layer(scale):
    x, w = random_array(256 * scale, 64), random_array(64, 64)
    linear.dgrad(linear.fprop(x, w, random_array(64)), w)
    linear.wgrad(x + 1, x)


@case("linear_fprop_tiled", "linear_dgrad_tiled", "linear_wgrad_tiled", name="linear_classifier")
def linear_classifier(scale):
    x, w = random_array(64 * scale, 64), random_array(16, 64)
    y = linear.fprop(x, w, None)
    linear.dgrad(y, w)
    linear.wgrad(y, x)


def bfloat16s(*shapes):
    return (random_array(*shape, dtype=dtype_of("bfloat16")) for shape in shapes)


def convolve(x, w, **window):
    size = Conv2dSize.of(x.shape, w.shape, **window)
    y = conv2d.fprop(x, w, None, size)
    conv2d.dgrad(y, w, size)
    conv2d.wgrad(y, x, size)


@case("conv2d_fprop_tiled", "conv2d_dgrad_tiled", "conv2d_wgrad_tiled")
def convolution(scale):
    convolve(random_array(scale, 10, 10, 64), random_array(64, 3, 3, 64))


@case("conv2d_dgrad_tiled", name="conv2d_stride_2")
def strided_convolution(scale):
    convolve(random_array(scale, 17, 17, 16), random_array(32, 3, 3, 16), stride=2)


@case("conv2d_wgrad_tiled", "conv2d_wgrad_sum", name="conv2d_1x1_groups")
def pointwise_convolution(scale):
    convolve(random_array(scale, 16, 16, 32), random_array(64, 1, 1, 16), groups=2)


@case("conv2d_fprop_mma", "conv2d_dgrad_mma", "conv2d_wgrad_mma", name="conv2d_mma")
def convolution_by_mma(scale):
    with use_algorithm(conv2d_fprop="mma", conv2d_dgrad="mma", conv2d_wgrad="mma"):
        convolve(*bfloat16s((scale, 10, 10, 64), (64, 3, 3, 64)))


@case("conv2d_fprop_mma", "conv2d_dgrad_mma", name="conv2d_mma_tf32_stride_2")
def strided_convolution_by_mma(scale):
    names = {"conv2d_fprop": "mma_64x64", "conv2d_dgrad": "mma_128x64", "conv2d_wgrad": "mma"}
    with use_algorithm(**names), use_precision("tf32"):
        convolve(random_array(scale, 17, 17, 32), random_array(96, 3, 3, 32), stride=2)


@case("conv2d_wgrad_mma", "conv2d_wgrad_sum", name="conv2d_mma_split")
def split_convolution_by_mma(scale):
    x, grad_y = bfloat16s((scale, 20, 20, 64), (scale, 20, 20, 80))
    size = Conv2dSize.of(x.shape, (80, 1, 1, 64))
    grad_w = np.empty(size.w_shape, x.dtype)
    mma.wgrad(Algorithm("mma", 64, 128, 32, splits=3), grad_y, x, grad_w, size)


@case("conv2d_fprop_mma", name="conv2d_mma_fused")
def fused_convolution_by_mma(scale):
    x, w, residual = bfloat16s((scale, 9, 9, 64), (80, 1, 1, 64), (scale, 9, 9, 80))
    size, y = Conv2dSize.of(x.shape, w.shape), np.empty_like(residual)
    algorithm = Algorithm("mma", 128, 64, 32)
    moments = empty_moments(algorithm, y)
    mma.fprop(algorithm, x, w, None, y, size, moments, residual, "relu")


@case("conv2d_dgrad_mma", name="conv2d_mma_step_back")
def step_back_by_mma(scale):
    """Through a residual; without one, phase by phase of an odd number of pixels."""
    algorithm = Algorithm("mma", 64, 64, 32)
    step_back(algorithm, *bfloat16s((scale, 9, 9, 64), (64, 1, 1, 64), (scale, 9, 9, 64)))
    arrays = bfloat16s((scale, 13, 13, 64), (64, 1, 1, 80), (scale, 25, 25, 80))
    step_back(algorithm, *arrays, residual=False, stride=2)


def step_back(algorithm, grad_y, w, addend, residual=True, **window):
    """By the family of kernels; return what all arrays hold."""
    x, size = addend + addend, Conv2dSize.of(addend.shape, w.shape, **window)
    statistics, channels = np.ones((2, size.c)), np.ones((2, size.c), np.float32)
    signs = np.full(x.size // 8, 255, np.uint8)
    known = (addend, "relu", signs) if residual else (None, "relu")
    below = batch_norm.Normalization.of(x, *statistics, *channels, *known)
    family, grad_x = {"mma": mma, "wgmma": wgmma}[algorithm.family], np.empty_like(x)
    sums = family.dgrad(algorithm, grad_y, w, grad_x, size, addend, below)
    moved = grad_y, w, addend, below.x, signs, grad_x, sums.sums, sums.products
    return sum(array.nbytes for array in moved)


@case("conv2d_fprop_depthwise", "conv2d_dgrad_depthwise", "conv2d_wgrad_depthwise")
def depthwise_convolution(scale):
    convolve(random_array(scale, 10, 10, 64), random_array(64, 3, 3, 1), groups=64)


def convolve_on_hopper(tiles, *shapes, **window):
    """By wgmma, with these tiles of fprop and dgrad, and of wgrad."""
    pixels, filters = (f"wgmma_{tile}" for tile in tiles)
    algorithms = {"conv2d_fprop": pixels, "conv2d_dgrad": pixels, "conv2d_wgrad": filters}
    with use_algorithm(**algorithms):
        convolve(*(random_array(*s, dtype=dtype_of("bfloat16")) for s in shapes), **window)


@case("conv2d_fprop_wgmma", "conv2d_dgrad_wgmma", "conv2d_wgrad_wgmma", name="conv2d_wgmma")
def convolution_on_hopper(scale):
    convolve_on_hopper(("128x64", "64x256"), (scale, 4, 34, 64), (128, 1, 3, 64))


@case("conv2d_dgrad_wgmma", "conv2d_wgrad_wgmma", name="conv2d_wgmma_stride_2")
def strided_convolution_on_hopper(scale):
    convolve_on_hopper(("128x128", "128x128"), (scale, 17, 17, 128), (64, 3, 3, 128), stride=2)


@case("conv2d_fprop_wgmma", "conv2d_wgrad_wgmma", "conv2d_wgrad_sum", name="conv2d_wgmma_1x1")
def pointwise_convolution_on_hopper(scale):
    convolve_on_hopper(("128x256", "128x256"), (4 * scale, 33, 32, 64), (64, 1, 1, 64), stride=2)


@case("conv2d_fprop_wgmma", name="conv2d_wgmma_fused")
def fused_convolution_on_hopper(scale):
    shapes = (scale, 16, 16, 64), (64, 1, 1, 64), (scale, 16, 16, 64)
    x, w, residual = (random_array(*s, dtype=dtype_of("bfloat16")) for s in shapes)
    algorithm, size = Algorithm("wgmma", 128, 64, 64), Conv2dSize.of(x.shape, w.shape)
    y = np.empty_like(residual)
    wgmma.fprop(algorithm, x, w, None, y, size, empty_moments(algorithm, y), residual, "relu")
    return x.nbytes + w.nbytes + residual.nbytes + y.nbytes + scale * 2 * 2 * 4 * 64


@case("conv2d_dgrad_wgmma", name="conv2d_wgmma_step_back")
def step_back_on_hopper(scale):
    grad_y, w, addend = bfloat16s((scale, 16, 16, 64), (64, 1, 1, 128), (scale, 16, 16, 128))
    return step_back(Algorithm("wgmma", 128, 64, 64), grad_y, w, addend)


@case("conv2d_dgrad_wgmma", name="conv2d_wgmma_step_back_stride_2")
def strided_step_back_on_hopper(scale):
    grad_y, w, addend = bfloat16s((scale, 13, 13, 64), (64, 3, 3, 64), (scale, 25, 25, 64))
    algorithm = Algorithm("wgmma", 128, 64, 64)
    step_back(algorithm, grad_y, w, addend, residual=False, stride=2, padding=1)


# ---- Loss, random numbers, optimizers, images ------------------------------------------------


def classified(scale):
    return random_array(64 * scale, 256), np.arange(64 * scale) % 256


@case("softmax_cross_entropy_forward_classes", "softmax_cross_entropy_forward_reduce")
def cross_entropy(scale):
    logits, target = classified(scale)
    softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")
    return logits.nbytes


@case("softmax_cross_entropy_backward_classes")
def cross_entropy_backward(scale):
    logits, target = classified(scale)
    loss, saved = softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")
    with emulator.record() as launches:
        softmax_cross_entropy.backward(np.ones_like(loss), logits, target, None, saved, -100, 0.0)
    return 2 * logits.nbytes, launches


@case("softmax_cross_entropy_forward_probabilities", "softmax_cross_entropy_forward_reduce")
def cross_entropy_of_probabilities(scale):
    logits, _ = classified(scale)
    softmax_cross_entropy.forward(logits, abs(logits), None, -100, 0.0, "mean")
    return 2 * logits.nbytes


@case("softmax_cross_entropy_backward_probabilities")
def cross_entropy_of_probabilities_backward(scale):
    logits, _ = classified(scale)
    target = abs(logits)
    loss, saved = softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")
    with emulator.record() as launches:
        softmax_cross_entropy.backward(np.ones_like(loss), logits, target, None, saved, -100, 0.0)
    return 3 * logits.nbytes, launches


TICKET = np.array([1, 2], np.uint64)


@case("dropout_apply_contiguous", name="dropout")
def _dropout(scale):
    x = random_array(*elements(scale))
    dropout.forward(x, 0.5, TICKET)
    return 2 * x.nbytes


@case("dropout_apply_channels_last", name="dropout_channels_last")
def _dropout_channels_last(scale):
    x = np.moveaxis(random_array(2 * scale, 16, 16, 32), -1, 1)
    dropout.forward(x, 0.5, TICKET)
    return 2 * x.nbytes


@case("random_uniform_blocks")
def uniform(scale):
    return random.uniform(TICKET, elements(scale)).nbytes


@case("random_ticket_advance")
def ticket(scale):
    random.ticket(TICKET.copy(), scale)


@case("random_philox_words")
def words(scale):
    out = np.empty(elements(scale), np.uint32)
    implementation(random.__name__, out).philox(1, 2, 3, out)
    return out.nbytes


@case("random_normal_box_muller")
def normal(scale):
    return random.normal(TICKET, elements(scale)).nbytes


def optimizer_problem(scale, hyper, buffers):
    arrays = list(np.random.default_rng(3).random((buffers, 16384 * scale), np.float32))
    return arrays, np.array([[0, 16384 * scale, 0, 1, 1]]), np.array([hyper])


@case("sgd_step_flat", "sgd_count_steps")
def sgd_step(scale):
    arrays, segments, hyper = optimizer_problem(scale, [0.1, 0.9, 0, 0, 0, 0], 3)
    sgd.step(*arrays, segments, hyper)
    return 5 * 4 * 16384 * scale


@case("adam_step_flat", "adam_count_steps")
def adam_step(scale):
    columns = adam.COLUMNS
    hyper = [0.01, 0.9, 0.999, 1e-8] + [0.0] * (columns - 4)
    arrays, segments, hyper = optimizer_problem(scale, hyper, 4)
    adam.step(*arrays, None, segments, hyper)
    return 7 * 4 * 16384 * scale


@case("crop_flip_normalize_forward_rows")
def augment(scale):
    x = np.moveaxis(np.ones((4 * scale, 32, 32, 3), np.uint8), -1, 1)
    placement = np.zeros((4 * scale, 3), np.int32)
    y = crop_flip_normalize.forward(x, placement, random_array(3), random_array(3))
    return x.nbytes + y.nbytes


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CASES)
def test_traffic_is_what_the_comment_says(name, scale, monkeypatch):
    formulas = record_formulas(monkeypatch)
    with use_backend("emulator"), emulator.options(mode="check"), emulator.record() as launches:
        result = CASES[name].run(scale)
    least, launches = result if isinstance(result, tuple) else (result, launches)
    formulas = formulas[-len(launches) :]
    assert {x.entry for x in launches} >= set(CASES[name].entries)
    dram = used = 0
    for launch, (requested, distinct) in zip(launches, formulas, strict=True):
        c = launch.counters
        reads, writes = requested
        counted = [SECTOR_BYTES * s for s in (c.global_read_sectors, c.global_write_sectors)]
        assert sum(counted) == pytest.approx(reads + writes, rel=0.1, abs=SECTOR_BYTES), (
            f"{launch.entry}: counted {counted}, its comment says {[reads, writes]}"
        )
        moved = [SECTOR_BYTES * s for s in (c.distinct_read_sectors, c.distinct_write_sectors)]
        says = f"{launch.entry}: {moved} bytes touched, its comment says {distinct}"
        assert sum(moved) <= 1.1 * sum(distinct) + 4 * SECTOR_BYTES, says
        if distinct != requested:  # it has formulas of its own for them, which must be near
            assert sum(moved) >= 0.9 * sum(distinct) - 4 * SECTOR_BYTES, says
        dram += sum(moved)
        used += c.distinct_read_bytes + c.distinct_write_bytes
    if least is not None:
        assert dram <= 1.1 * least, f"moves {dram} bytes where {least} would do"
        assert used >= 0.95 * dram, f"uses {used} of the {dram} bytes of its sectors"


def record_formulas(monkeypatch):
    """Collect what the kernels' comments say of every launch.

    Pairs (reads, writes): of all requests, and of each byte once.
    """
    formulas, launch = [], Kernel.launch

    def recording(self, grid, *arguments, **options):
        if 0 not in np.atleast_1d(grid):
            constants = {k: v for k, v in options.items() if k != "shared_bytes"}
            formulas.append(
                [self.traffic(grid, *arguments, dram=dram, **constants) for dram in (False, True)]
            )
        launch(self, grid, *arguments, **options)

    monkeypatch.setattr(Kernel, "launch", recording)
    return formulas


def test_every_kernel_has_a_case():
    entries = {kernel.entry for kernel in all_kernels()}
    assert {entry for case in CASES.values() for entry in case.entries} == entries
