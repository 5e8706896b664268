"""k-NN's votes against the definition in float64 and against scikit-learn; over processes the same numbers."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from sima_hf.errors import DataError
from sima_hf.evaluation.protocols.knn import ROWS, knn_votes


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    features, labels = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return features[order[:1201]], labels[order[:1201]], features[order[1201:]], labels[order[1201:]]


def by_hand(train, labels, test, classes, k, temperature):
    """Image by image, in float64."""
    train, test = (x.double().numpy() for x in (train, test))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    votes = np.zeros((len(test), classes))
    for row, image in enumerate(test):
        similar = train @ image
        for place in np.argsort(-similar, kind="stable")[:k]:
            votes[row, labels[place]] += np.exp(similar[place] / temperature)
    return votes


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_votes_are_the_definition(digits, temperature):
    train, labels, test, wanted = digits
    found = knn_votes(train, labels, test, 10, (20, 10, 1), temperature)
    for k, votes in found.items():
        expected = by_hand(train, labels, test, 10, k, temperature)
        assert votes.shape == (596, 10)
        # exp(cosine / 0.07) makes 1e-7 of a float32 cosine 2e-6
        torch.testing.assert_close(votes, torch.from_numpy(expected), rtol=1e-4, atol=0)
        assert (votes.argmax(1) == torch.from_numpy(expected.argmax(1))).all()
        assert (votes.argmax(1) == wanted).double().mean() > 0.95


def test_scikit_learn_finds_the_same_answers(digits):
    train, labels, test, _ = digits
    unit = [torch.nn.functional.normalize(x.double()).numpy() for x in (train, test)]
    # cosine = 1 - distance^2 / 2 of unit vectors
    reference = KNeighborsClassifier(
        20, weights=lambda distance: np.exp((1 - distance**2 / 2) / 0.07), algorithm="brute"
    )
    answers = reference.fit(unit[0], labels).predict(unit[1])
    assert (knn_votes(train, labels, test, 10)[20].argmax(1).numpy() == answers).all()


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_the_processes_votes_add_up(digits, processes):
    train, labels, test, _ = digits
    assert len(test) > 2 * ROWS
    alone = knn_votes(train, labels, test, 10, (5,))[5]
    parts = [knn_votes(train, labels, test, 10, (5,), process=one, processes=processes)[5] for one in range(processes)]
    assert torch.equal(sum(parts), alone)


def test_settings_out_of_range_are_explained(digits):
    train, labels, test, _ = digits
    for settings, words in (
        ({"neighbors": (0,)}, "from 1 to the 1201 training images, got 0"),
        ({"neighbors": (5, 2000)}, "got 2000"),
        ({"neighbors": ()}, "got none"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
    ):
        with pytest.raises(DataError, match=words):
            knn_votes(train, labels, test, 10, **settings)
