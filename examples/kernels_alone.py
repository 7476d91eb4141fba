"""The kernels without the engine: arrays in, arrays out, on two backends.

A convolution, its gradients, and the adjoint identity <grad_y, conv(x)> = <dgrad(grad_y), x> that
every linear op and its gradient obey. Run it with `python examples/kernels_alone.py`.
"""

import numpy as np

import convolt
from convolt.kernels import conv2d


def main() -> None:
    """Print the size of the problem and how well the backends agree."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 32, 32, 3))  # N H W C
    w = rng.standard_normal((16, 3, 3, 3))  # K R S C
    size = conv2d.Conv2dSize.of(x.shape, w.shape, stride=2, padding=1)
    grad_y = rng.standard_normal(size.y_shape)
    print(f"y {size.y_shape}, {size.multiply_adds:,} multiply-adds, {size.bytes(8):,} bytes")

    results = {}
    for name in ("numpy", "numba"):
        with convolt.use_backend(name):
            y = conv2d.fprop(x, w, None, size)
            grad_x = conv2d.dgrad(grad_y, w, size)
            grad_w = conv2d.wgrad(grad_y, x, size)
        results[name] = (y, grad_x, grad_w)
        print(f"{name}: {np.vdot(grad_y, y):.9f} = {np.vdot(grad_x, x):.9f}")
    for a, b, what in zip(*results.values(), ("fprop", "dgrad", "wgrad"), strict=True):
        print(f"{what}: the backends differ by at most {abs(a - b).max():.1e}")


if __name__ == "__main__":
    main()
