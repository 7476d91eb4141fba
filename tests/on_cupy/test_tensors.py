"""Tensors on CuPy arrays: made, read, changed, moved, and shared with other libraries."""

import host_cupy
import numpy as np
import pytest

import convolt
from convolt import Tensor, functional, layers, optim, use_backend
from convolt.kernels.backend import why_not


def test_new_tensors_are_on_the_gpu_and_numpy_s_stay_where_they_are(cupy):
    for tensor in (convolt.zeros(2, 3), Tensor([1.0, 2.0]), convolt.tensor(np.ones(3)),
                   convolt.arange(3), convolt.full((2,), 4.0), Tensor(3)):  # fmt: skip
        assert tensor.backend == "cuda"
        assert isinstance(tensor.data, cupy.ndarray)
    assert Tensor(np.ones(3)).backend != "cuda"


def test_reading(cupy):
    x = convolt.tensor(np.arange(6.0, dtype="float32").reshape(2, 3), requires_grad=True)
    np.testing.assert_array_equal(x.numpy(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(np.asarray(x.detach()), x.numpy())
    assert (x.tolist(), x[1, 2].item(), float(x[1, 0])) == ([[0, 1, 2], [3, 4, 5]], 5, 3)
    assert repr(x) == (
        "Tensor([[0., 1., 2.],\n        [3., 4., 5.]],\n"
        "       shape=(2, 3), dtype=float32, backend=cuda, requires_grad=True)"
    )
    assert f"{x[0, 1]:.2f}" == "1.00"
    assert bool(x[0, 1])
    assert not bool(x[0, 0])
    assert [0, 1, 2][convolt.tensor(1)] == 1
    assert [row.tolist() for row in x] == x.tolist()
    x.numpy()[:] = 7  # a copy
    assert x[0, 0].item() == 0


def test_changing_in_place(cupy):
    x = convolt.zeros(2, 3)
    x[0] = 1.0
    x[1, 1:] = convolt.tensor([2.0, 3.0])
    x[1, 0] = np.float32(4)
    x[:, 2] = np.array([5, 6], np.float32)  # NumPy's are brought to the GPU
    assert x.tolist() == [[1, 1, 5], [4, 2, 6]]
    x += 1
    assert x.copy_(np.ones(3, np.int64)).tolist() == [[1, 1, 1]] * 2


def test_arrays_of_two_memories_do_not_mix_but_can_be_moved(cupy):
    here = convolt.tensor([1.0, 2.0, 3.0], requires_grad=True)
    there = Tensor(np.array([4, 5, 6], np.float32), requires_grad=True)
    with pytest.raises(TypeError, match=r"NumPy arrays mixed with CuPy arrays; .*tensor\.cuda"):
        here + there
    (here.cpu() * there).sum().backward()
    assert (here.grad.backend, here.grad.tolist()) == ("cuda", [4, 5, 6])
    (here * there.cuda()).sum().backward()
    assert (there.grad.backend == "cuda", there.grad.tolist()) == (False, [2, 4, 6])
    assert here.cuda() is here
    assert there.cpu() is there


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0)])
def test_moving_keeps_the_order_in_memory(cupy, rng, axes):
    array = rng.standard_normal((2, 3, 4, 5)).transpose(axes)
    tensor = convolt.tensor(array)
    assert tensor.data.strides == array.strides
    np.testing.assert_array_equal(tensor.numpy(), array)
    gaps = convolt.tensor(array[:, ::2])
    np.testing.assert_array_equal(gaps.numpy(), array[:, ::2])


def test_the_backend_of_the_forward_pass_serves_the_backward_pass(cupy):
    x = convolt.tensor([1.0, -2.0], requires_grad=True)
    y = functional.relu(x).sum()
    with use_backend("numpy"):
        y.backward()
    assert (x.grad.backend, x.grad.tolist()) == ("cuda", [1, 0])


def test_a_state_of_numpy_arrays_is_loaded(cupy, rng):
    net = layers.Sequential(layers.Conv2d(2, 3, 3), layers.BatchNorm2d(3))
    state = {k: rng.random(v.shape).astype(v.dtype) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    for name, tensor in net.state_dict().items():
        assert tensor.backend == "cuda"
        np.testing.assert_array_equal(tensor.numpy(), state[name])


def test_cupy_shares_memory(cupy):
    array = cupy.asarray(np.arange(12, dtype=np.float32)).reshape(3, 4).transpose(1, 0)
    tensor = Tensor(array)
    assert tensor.data is array
    for view in (cupy.asarray(tensor), cupy.from_dlpack(tensor), convolt.from_dlpack(array).data,
                 convolt.from_dlpack(tensor).data, Tensor(Other(array)).data):  # fmt: skip
        assert (view.data.ptr, view.strides, view.dtype) == (
            array.data.ptr,
            array.strides,
            array.dtype,
        )
    assert tensor.__dlpack_device__()[0] == 2
    np.testing.assert_array_equal(np.from_dlpack(tensor, device="cpu"), array.get())


class Other:
    """An array of a library that knows the CUDA array interface alone."""

    def __init__(self, array):
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_a_tensor_with_a_gradient_is_not_exported(cupy):
    tensor = convolt.zeros(2, requires_grad=True)
    with pytest.raises(BufferError, match="detach"):
        cupy.from_dlpack(tensor)
    with pytest.raises(RuntimeError, match="detach"):
        _ = tensor.__cuda_array_interface__
    assert cupy.asarray(tensor.detach()).data.ptr == tensor.data.data.ptr


def test_a_tensor_of_the_host_has_no_cuda_array_interface(cupy):
    assert not hasattr(Tensor(np.zeros(2)), "__cuda_array_interface__")
    assert Tensor(np.zeros(2)).__dlpack_device__() == (1, 0)


def test_pytorch_shares_memory(cupy):
    torch = pytest.importorskip("torch")
    if host_cupy.is_installed(cupy) or not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    theirs = torch.arange(6.0, device="cuda").reshape(2, 3)
    ours = Tensor(theirs)
    assert (ours.backend, ours.data.data.ptr) == ("cuda", theirs.data_ptr())
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    assert torch.as_tensor(ours, device="cuda").data_ptr() == theirs.data_ptr()
    assert Tensor(theirs.bfloat16()).dtype.name == "bfloat16"
    with pytest.raises((BufferError, RuntimeError)):
        Tensor(theirs.requires_grad_())


def test_a_pytorch_tensor_of_the_host_is_copied_to_the_gpu(cupy):
    torch = pytest.importorskip("torch")
    tensor = Tensor(torch.arange(3.0))
    assert (tensor.backend, tensor.tolist()) == ("cuda", [0, 1, 2])


def test_bfloat16_is_shared_by_dlpack(cupy):
    ours = convolt.tensor([1.0, 2.5]).bfloat16()
    back = convolt.from_dlpack(ours)
    assert (back.dtype, back.data.data.ptr) == (ours.dtype, ours.data.data.ptr)


def test_cuda_without_a_gpu_says_why():
    if not why_not("cuda"):
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=r"cuda\(\): backend 'cuda' cannot be used"):
        Tensor(np.zeros(2)).cuda()
    assert Tensor(np.zeros(2)).cpu().shape == (2,)


def test_a_module_and_its_optimizer_move(cupy):
    net = layers.Sequential(layers.Linear(3, 2), layers.BatchNorm1d(2))
    rule = optim.Adam(net.parameters(), lr=0.1)
    x = convolt.tensor(np.arange(6, dtype=np.float32).reshape(2, 3))

    def step(x):
        rule.zero_grad()
        net(x).sum().backward()
        rule.step()

    step(x)
    before = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    assert net.to("cpu") is net
    for name, tensor in net.state_dict().items():
        assert isinstance(tensor.data, np.ndarray)
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    assert all(isinstance(p.grad.data, np.ndarray) for p in net.parameters())
    step(x.to("cpu"))
    net.cuda()
    step(x.to("cuda"))
    assert {t.backend for t in net.state_dict().values()} == {"cuda"}
    assert rule.state_dict()["state"][0]["step"] == 3
