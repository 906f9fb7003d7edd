import pytest
import torch

from mhc_vision.inference.knn import knn_probabilities, leave_one_out_accuracy


def test_votes_are_those_counted_by_hand():
    torch.manual_seed(0)
    features, labels = torch.randn(30, 5), torch.randint(0, 3, (30,))
    queries = torch.randn(4, 5)
    shares = knn_probabilities(queries, features, labels, 3, k=7, temperature=0.1)
    for query, share in zip(queries, shares, strict=True):
        similarities = torch.nn.functional.cosine_similarity(query[None], features)
        votes = [0.0, 0.0, 0.0]
        for index in similarities.argsort(descending=True)[:7]:
            votes[labels[index]] += float(torch.exp(similarities[index] / 0.1))
        assert share.tolist() == pytest.approx([vote / sum(votes) for vote in votes], rel=1e-4)


def test_a_training_image_is_its_own_neighbour():
    torch.manual_seed(0)
    features, labels = torch.randn(2000, 8), torch.arange(2000) % 10
    assert (knn_probabilities(3 * features, features, labels, 10, k=1).argmax(1) == labels).all()


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(ValueError, match="knn_k: got 20, expected at most 5"):
        knn_probabilities(torch.randn(1, 3), torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), 2)


# 1e25 is finite, but its square is not: normalised it would be zero, and all neighbours alike
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("where", ["features", "queries"])
def test_features_that_are_not_finite_are_refused_and_counted(bad, where):
    given = {"features": torch.randn(30, 3), "queries": torch.randn(5, 3)}
    given[where][2:4, 1] = bad
    with pytest.raises(ValueError, match=rf"{where}: got NaN or infinity for 2 of (30|5) "):
        knn_probabilities(given["queries"], given["features"], torch.zeros(30, dtype=torch.int64), 2)


def test_left_out_images_are_found_by_the_others():
    torch.manual_seed(0)
    features, labels = torch.randn(1100, 4), torch.randint(0, 3, (1100,))
    shares = knn_probabilities(features, features, labels, 3, k=5, leave_one_out=True)
    # in the first and in the last part that similarities are taken in
    for index in (0, 3, 1099):
        others = torch.arange(1100) != index
        expected = knn_probabilities(features[[index]], features[others], labels[others], 3, k=5)
        torch.testing.assert_close(shares[[index]], expected)
    right = (shares.argmax(1) == labels).double().mean().item()
    assert leave_one_out_accuracy(features, labels, (5,)) == {5: pytest.approx(right)}


def test_only_as_many_neighbours_vote_as_there_are_other_images():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.9, 0.1], [0.1, 0.9]])
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    # of the five others three are of the other class, but further away
    assert leave_one_out_accuracy(features, labels) == {1: 1.0, 5: 1.0}
    assert leave_one_out_accuracy(features[:1], labels[:1]) == {}
    with pytest.raises(ValueError, match="knn_k: got 6, expected at most 5"):
        knn_probabilities(features, features, labels, 2, k=6, leave_one_out=True)
