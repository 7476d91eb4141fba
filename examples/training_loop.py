"""A training loop by hand: what `convolt train` does, without the conveniences.

Run it with `python examples/training_loop.py`; it takes some ten seconds.
"""

import convolt
from convolt import functional as F
from convolt import models, optim
from convolt.data import Loader, Normalize, digits


def main(epochs: int = 3) -> float:
    """Train LeNet-5 on the digits and return its accuracy on the test set."""
    convolt.manual_seed(0)
    train, test = digits(size=28, seed=0)
    normalize = Normalize.of(train)
    batches = Loader(train, 64, shuffle=True, seed=0, normalize=normalize)
    test_batches = Loader(test, 256, shuffle=False, seed=0, normalize=normalize)

    model = models.lenet5()
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    accuracy = 0.0
    for epoch in range(epochs):
        model.train()
        for images, labels in batches.batches(epoch):
            loss = F.cross_entropy(model(convolt.tensor(images)), convolt.tensor(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        model.eval()
        correct = 0
        with convolt.no_grad():
            for images, labels in test_batches.batches(0):
                predicted = model(convolt.tensor(images)).argmax(1)
                correct += int((predicted == convolt.tensor(labels)).sum())
        accuracy = correct / len(test)
        print(f"epoch {epoch + 1}: last loss {loss.item():.3f}, test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
