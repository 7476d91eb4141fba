"""ResNet-20 in bf16 on CuPy arrays: training and folded evaluation, the bits of the emulator."""

import host_cupy
import numpy as np

import convolt
from convolt import functional, no_grad, optim, use_backend, use_precision
from convolt.models import resnet20


def run():
    """Losses of two steps, logits of evaluation, and the state, as NumPy arrays."""
    rng = np.random.default_rng(0)
    x = convolt.tensor(rng.standard_normal((2, 3, 9, 8)).astype(np.float32))
    target = convolt.tensor(rng.integers(0, 10, 2))
    convolt.manual_seed(0)
    net = resnet20(width=4)
    rule = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    results = {}
    for step in range(2):
        rule.zero_grad()
        loss = functional.cross_entropy(net(x), target)
        loss.backward()
        rule.step()
        results[f"loss {step}"] = loss.numpy()
    with no_grad():
        results["logits"] = net.eval()(x).float().numpy()
    return results | {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def test_a_run_in_bf16_equals_the_emulator_s(cupy):
    with use_precision("bf16"):
        got = run()
        with use_backend("emulator"):
            expected = run()
    if host_cupy.is_installed(cupy):
        for name, array in expected.items():
            assert got[name].tobytes() == array.tobytes(), name
    else:  # other kernels than those of the emulated GPU may be chosen
        for name in ("loss 0", "loss 1", "logits"):
            limit = 0.05 * np.abs(expected[name]).max()
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=limit)
