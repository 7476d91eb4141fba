import pytest

torch = pytest.importorskip("torch")

from convolt import layers  # noqa: E402


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg11_cifar", "resnet50"])
def test_states_have_the_keys_and_shapes_of_torch(load, name):
    models = load("models")
    ours, theirs = (models.build(name, nn).state_dict() for nn in (layers, torch.nn))
    assert {k: tuple(v.shape) for k, v in ours.items()} == {
        k: tuple(v.shape) for k, v in theirs.items()
    }
    assert list(ours) == list(theirs)
