"""What is remembered of the best look."""

import torch

from wyrmling.train.progress import Progress


def test_the_best_weights_are_a_copy_in_the_memory_of_those_before() -> None:
    progress, weights = Progress(threads=1, dtype="float32"), {"a": torch.ones(3)}
    progress.keep(weights)
    kept = progress.best_weights
    assert kept is not None
    weights["a"] += 1
    assert torch.equal(kept["a"], torch.ones(3))
    place = kept["a"].data_ptr()
    progress.keep(weights)
    assert torch.equal(kept["a"], torch.full((3,), 2.0)) and kept["a"].data_ptr() == place
