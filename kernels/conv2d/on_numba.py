"""conv2d on the CPU: register tiles over memory as it lies (``plan``, ``cpu/tiles``)."""

import numpy as np

from ..batch_norm.on_numba import activate, moments
from ..cpu.accumulate import accumulate, add_parts
from ..cpu.correlate import correlate, pack
from ..cpu.memory import empty
from ..cpu.thread_count import get_num_threads
from ..elementwise.on_numba import add
from .plan import dgrad_plan, fprop_plan
from .plan_wgrad import wgrad_plan


def fprop(x, w, bias, y, size, residual=None, activation=None):
    if size.n:
        _correlate(x, w, bias, y, fprop_plan(size, x.dtype.name, get_num_threads()))
    if residual is not None or activation is not None:
        y = y.reshape(-1, size.k)
        residual = None if residual is None else residual.reshape(y.shape)
        activate(y, residual, activation == "relu", y)


def fprop_moments(x, w, y, size):
    fprop(x, w, None, y, size)
    return moments(y.reshape(-1, size.k))


def dgrad(grad_y, w, grad_x, size, addend=None, below=None):
    if size.n:
        _correlate(grad_y, w, None, grad_x, dgrad_plan(size, w.dtype.name, get_num_threads()))
    if addend is not None:
        add(grad_x, addend, grad_x)


def _correlate(x, w, bias, y, plan):
    if plan.zero_first:
        y.fill(0)
    start, step = plan.zeros, 0
    if bias is not None:
        start = np.tile(bias, plan.block) if plan.block > 1 else bias
        step = plan.width_bytes
    packed = empty(plan.packed_shape, x.dtype)
    x, w, y = (array.reshape(-1) for array in (x, w, y))  # one compiled function for any rank
    pack(w, packed, plan.facts, plan.packs, plan.filter_taps)
    correlate(x, start, step, y, packed, plan.facts, plan.regions, plan.taps)


def wgrad(grad_y, x, grad_w, size):
    if not size.n:
        grad_w[...] = 0
        return
    plan = wgrad_plan(size, x.dtype.name)
    grad_y, x, grad_w = (array.reshape(-1) for array in (grad_y, x, grad_w))
    sums = grad_w if plan.sums_shape is None else empty(plan.sums_shape, x.dtype)
    a, b = plan.seen.a_and_b(grad_y, x)
    accumulate(a, b, sums, plan.zeros, plan.facts, plan.jobs, plan.lines, plan.tiles)
    if sums is not grad_w:
        add_parts(sums, grad_w, plan.facts)
