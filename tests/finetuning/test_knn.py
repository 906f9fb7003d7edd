import pytest
import torch

from mhc_vision.finetuning.knn import knn_probabilities


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
