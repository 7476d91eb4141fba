import pytest


@pytest.fixture(scope="module")
def problems(load):
    return load("problems")


def multiply_adds(problems):
    """Of one image, every layer of the network."""
    return sum(p.count * p.size.multiply_adds / p.n for p in problems)


def test_every_shape_fits_and_is_listed_once(problems):
    for network in problems.NETWORKS:
        listed = problems.problems(network)  # Conv2dSize.of checks each
        shapes = [(p.n, p.size) for p in listed]
        assert len(shapes) == len(set(shapes)), network
        assert all(p.network == network and p.count >= 1 for p in listed)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        ("lenet5", 2),
        ("alexnet", 5),
        ("vgg16", 13),
        ("googlenet", 59),  # 57, and one in each of the two auxiliary heads
        ("resnet50", 53),
        ("deepbench", 94),
        ("soumith", 5),
    ],
)
def test_number_of_layers(problems, network, count):
    assert sum(p.count for p in problems.problems(network)) == count


@pytest.mark.parametrize(
    ("network", "giga_multiply_adds"),
    [
        ("vgg16", 15.3),  # Simonyan and Zisserman 2015: 15.5 with the linear layers
        ("resnet50", 4.09),  # v1.5; He et al. 2016 have 3.8 for v1
        ("alexnet", 0.666),  # Krizhevsky et al. 2012: 0.72 with the linear layers
        ("googlenet", 1.58),  # Szegedy et al. 2015: "1.5 billion"
        ("lenet5", 0.0053),
    ],
)
def test_multiply_adds_of_one_image(problems, network, giga_multiply_adds):
    found = multiply_adds(problems.problems(network, batch=1)) / 1e9
    assert found == pytest.approx(giga_multiply_adds, rel=0.01)


def test_output_sizes_match_the_next_layer(problems):
    sizes = {p.name: p.size for p in problems.problems("alexnet")}
    assert (sizes["conv1"].p, sizes["conv2"].p, sizes["conv5"].p) == (55, 27, 13)
    resnet = {p.name: p.size for p in problems.problems("resnet50")}
    assert resnet["conv1"].p == 112
    assert resnet["res3a_branch1"].p == resnet["res3a_branch2b"].p == resnet["res3a_branch2c"].h


def test_batch(problems):
    assert {p.n for p in problems.problems("soumith")} == {128}
    assert {p.n for p in problems.problems("vgg16", batch=3)} == {3}
    own = problems.problems("deepbench")
    assert {p.n for p in own} == {4, 8, 16, 32}
    same = problems.problems("deepbench", batch=2)
    assert {p.n for p in same} == {2}
    assert len(same) < len(own)
    assert sum(p.count for p in same) == sum(p.count for p in own)


def test_what_is_not_there_is_an_error(problems):
    with pytest.raises(ValueError, match="lenet5, cifar"):
        problems.problems("lenet6")
    with pytest.raises(ValueError, match="batch must be >= 1"):
        problems.problems("lenet5", batch=0)
