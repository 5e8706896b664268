"""The linear probe against scikit-learn's logistic regression: the same optimum, whatever the scales; chosen strengths."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sima_hf.errors import DataError
from sima_hf.evaluation.protocols import linear_probe
from sima_hf.evaluation.protocols.linear_probe import REGULARIZATIONS, fit_linear_probe


@pytest.fixture(scope="module")
def digits():
    """Channels of very different scales, one of them constant."""
    bunch = load_digits()
    features = torch.tensor(bunch.data, dtype=torch.float32)[:, 1:40] * torch.logspace(-2, 3, 39) + 5
    features[:, 3] = 7.0
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return features[order[:601]], labels[order[:601]], features[order[601:]], labels[order[601:]]


def reference(train, labels, test, strength):
    """Log-probabilities by scikit-learn, float64."""
    scaler = StandardScaler().fit(train.double().numpy())
    model = LogisticRegression(C=1 / (len(train) * strength), tol=1e-12, max_iter=20000)
    model.fit(scaler.transform(train.double().numpy()), labels.numpy())
    return torch.from_numpy(model.predict_log_proba(scaler.transform(test.double().numpy())))


@pytest.mark.parametrize("strength", [1.0, 0.01, 0.0005])
def test_it_is_the_optimum(digits, strength, monkeypatch):
    train, labels, test, wanted = digits
    monkeypatch.setattr(linear_probe, "ROWS", 100)  # in seven pieces
    probe = fit_linear_probe(train, labels, 10, strength)
    found = probe.logits(test).log_softmax(dim=1)
    torch.testing.assert_close(found, reference(train, labels, test, strength), rtol=1e-4, atol=1e-4)
    assert (found.argmax(1) == wanted).double().mean() > 0.8
    assert (probe.regularization, probe.chosen) == (strength, {})


def test_the_gradient_is_zero_at_the_end(digits):
    train, labels, _, _ = digits
    probe = fit_linear_probe(train, labels, 10, 0.01)
    deviation = train.double().std(0, correction=0)
    scaled = torch.where(deviation > 0, deviation, 1.0)
    weight = (probe.weight * scaled).requires_grad_()
    bias = (probe.bias + probe.weight @ train.double().mean(0)).requires_grad_()
    logits = ((train.double() - train.double().mean(0)) / scaled) @ weight.T + bias
    (torch.nn.functional.cross_entropy(logits, labels) + 0.005 * weight.square().sum()).backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-7


@pytest.mark.slow
def test_the_strength_is_chosen_on_every_fifth_image_of_each_class(digits):
    train, labels, test, _ = digits
    probe = fit_linear_probe(train, labels, 10)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held[(labels == label).nonzero()[:, 0][4::5]] = True
    assert list(probe.chosen) == list(REGULARIZATIONS)
    for strength in (1.0, 0.01):
        answers = reference(train[~held], labels[~held], train[held], strength).argmax(1)
        assert probe.chosen[strength] == (answers == labels[held]).double().mean().item()
    best = max(probe.chosen.values())
    assert probe.regularization == max(strength for strength, share in probe.chosen.items() if share == best)
    again = fit_linear_probe(train, labels, 10)
    assert torch.equal(again.weight, probe.weight)
    fixed = fit_linear_probe(train, labels, 10, probe.regularization)
    torch.testing.assert_close(fixed.logits(test), probe.logits(test))


def test_classes_that_training_does_not_have_get_no_answer(digits):
    train, labels, test, _ = digits
    probe = fit_linear_probe(train, labels, 12, 0.01)
    assert probe.logits(test).shape == (1196, 12)
    assert probe.logits(test).argmax(1).max() <= 9


def test_settings_out_of_range_are_explained(digits):
    train, labels, _, _ = digits
    with pytest.raises(DataError, match="`regularization` must be positive, got -1"):
        fit_linear_probe(train, labels, 10, -1)
    with pytest.raises(DataError, match=r"No class has 5 training images.*give it, such as 0\.01"):
        fit_linear_probe(train[:4], labels[:4], 10)
