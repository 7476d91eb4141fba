"""LeNet-5, in the variant that the UW CSE576 lecture tabulates (after LeCun et al., 1998)."""

from ..layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


def lenet5(in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """Return LeNet-5 for images of 28x28 pixels.

    For one channel and ten classes:

    | layer                    | output      | weight         |
    |--------------------------|-------------|----------------|
    | input                    | 1 x 28 x 28 |                |
    | conv 20 @ 5x5, pad 2     | 20 x 28 x 28| 20 x 1 x 5 x 5 |
    | ReLU                     | 20 x 28 x 28|                |
    | max-pool 2x2, stride 2   | 20 x 14 x 14|                |
    | conv 50 @ 5x5, pad 2     | 50 x 14 x 14| 50 x 20 x 5 x 5|
    | ReLU                     | 50 x 14 x 14|                |
    | max-pool 2x2, stride 2   | 50 x 7 x 7  |                |
    | flatten                  | 2450        |                |
    | linear                   | 500         | 500 x 2450     |
    | ReLU                     | 500         |                |
    | linear                   | 10          | 10 x 500       |

    1,256,080 parameters with the biases.
    """
    return Sequential(
        Conv2d(in_channels, 20, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Conv2d(20, 50, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(50 * 7 * 7, 500),
        ReLU(),
        Linear(500, num_classes),
    )
