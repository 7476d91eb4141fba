import pytest

from convolt.kernels import activation

X_SHAPE = (16, 28, 28, 64)


def functions(direction, *functions):
    return pytest.mark.parametrize(
        ("function", "options"),
        [
            pytest.param(
                *(function, options),
                id=function.__name__.removesuffix("_backward"),
                marks=pytest.mark.benchmark(
                    group=f"{function.__name__.removesuffix('_backward')} {direction}"
                ),
            )
            for function, options in functions
        ],
    )


@functions(
    "forward",
    (activation.relu, ()),
    (activation.leaky_relu, (0.01,)),
    (activation.sigmoid, ()),
    (activation.tanh, ()),
)
def test_activation(timed, random, function, options):
    timed(function, random(*X_SHAPE), *options)


@functions(
    "backward",
    (activation.relu_backward, ()),
    (activation.leaky_relu_backward, (0.01,)),
    (activation.sigmoid_backward, ()),
    (activation.tanh_backward, ()),
)
def test_activation_backward(timed, random, function, options):
    timed(function, random(*X_SHAPE), random(*X_SHAPE), *options)
