"""avg_pool2d in NumPy: the definition, window by window. Read this first."""


def forward(x, y, windows):
    rows, columns, divisors = windows.geometry()
    for p, (top, bottom) in enumerate(rows.T):
        for q, (left, right) in enumerate(columns.T):
            y[:, p, q] = x[:, top:bottom, left:right].sum((1, 2)) / y.dtype.type(divisors[p, q])


def backward(grad_y, grad_x, windows):
    rows, columns, divisors = windows.geometry()
    grad_x[...] = 0
    for p, (top, bottom) in enumerate(rows.T):
        for q, (left, right) in enumerate(columns.T):
            share = grad_y[:, p, q] / grad_y.dtype.type(divisors[p, q])
            grad_x[:, top:bottom, left:right] += share[:, None, None]
