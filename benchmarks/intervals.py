"""How fast the intervals are, how often they hold the truth, and how often the paired tests are wrong or right.

    python benchmarks/intervals.py            # speed, then coverage, false positives and power: about two minutes
    python benchmarks/intervals.py --draws 2000

Every population is simulated, so its truth is known: a "95 %" interval should hold it 95 times in 100.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterator

import numpy as np

from wyrmling.evaluate import metrics, statistics
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.tag_outcome import TagOutcome
from wyrmling.evaluate.text_outcome import TextOutcome

RESAMPLES = 500
Draw = Callable[[np.random.Generator], tuple[float, float | None, float | None]]


def speed() -> None:
    """2,000 paired macro-F1 resamples of 3,000 rows, 77 classes, two models."""
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 77, 3000)
    first, second = (np.where(rng.random(3000) < right, gold, rng.integers(0, 77, 3000)) for right in (0.92, 0.90))
    labels = [str(i) for i in range(77)]
    started = time.perf_counter()
    new, old = ClassOutcome(labels, gold, first), ClassOutcome(labels, gold, second)
    new.difference(old, "macro_f1")
    print(f"2,000 paired macro-F1 resamples, 3,000 rows, 77 classes: {time.perf_counter() - started:.2f} s")
    grouped = rng.integers(0, 1500, 3000)
    cluster = np.unique(grouped, return_inverse=True)[1]
    started = time.perf_counter()
    new, old = (ClassOutcome(labels, gold, p, cluster_N=cluster) for p in (first, second))
    new.difference(old, "macro_f1")
    print(f"the same in {len(np.unique(grouped)):,} clusters: {time.perf_counter() - started:.2f} s")


def labelled(rng: np.random.Generator, n: int, classes: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predicted labels; wrong answers are mostly the next label."""
    gold = rng.integers(0, classes, n)
    wrong = (gold + rng.choice([1, 1, 1, 2, 3], n)) % classes
    return gold, np.where(rng.random(n) < right, gold, wrong)


def of_classes(name: str, n: int, classes: int) -> Draw:
    gold, predicted = labelled(np.random.default_rng(1), 400_000, classes, 0.85)
    whole = ClassOutcome([str(i) for i in range(classes)], gold, predicted, resamples=2)
    truth = float(metrics.CLASSIFY[name].of(whole.sums, whole.scored_C))

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        chosen = rng.integers(0, len(gold), n)
        score = ClassOutcome(whole.labels, gold[chosen], predicted[chosen], resamples=RESAMPLES).score(name)
        return truth, score.low, score.high

    return draw


def of_label(n: int) -> Draw:
    gold, predicted = labelled(np.random.default_rng(1), 400_000, 10, 0.85)
    whole = ClassOutcome([str(i) for i in range(10)], gold, predicted)
    truth = whole.per_class()["3"]["f1"].value or 0.0

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        chosen = rng.integers(0, len(gold), n)
        score = ClassOutcome(whole.labels, gold[chosen], predicted[chosen]).per_class()["3"]["f1"]
        return truth, score.low, score.high

    return draw


def of_ranking(name: str, n: int) -> Draw:
    rng = np.random.default_rng(1)
    gold = (rng.random(100_000) < 0.3).astype(np.int64)
    p = 1 / (1 + np.exp(-(rng.normal(size=len(gold)) + 1.5 * gold - 1)))
    probabilities = np.stack([1 - p, p], axis=1)
    truth = ClassOutcome(["no", "yes"], gold[:20_000], gold[:20_000], probabilities[:20_000]).score(name).value or 0.0

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        chosen = rng.integers(0, len(gold), n)
        part = probabilities[chosen]
        score = ClassOutcome(["no", "yes"], gold[chosen], part.argmax(1), part).score(name)
        return truth, score.low, score.high

    return draw


def of_entities(n: int) -> Draw:
    rng = np.random.default_rng(1)
    kinds = ["PER", "LOC", "ORG"]
    gold, predicted = [], []
    for _ in range(4_000):
        tags = ["O"] * 12
        guesses = ["O"] * 12
        for at in range(0, 12, 3):
            if rng.random() < 0.3:
                tags[at] = guesses[at] = f"B-{kinds[rng.integers(3)]}"
            if rng.random() < 0.15:
                guesses[at] = rng.choice(["O", "B-PER", "B-LOC"])
        gold.append(tags)
        predicted.append(guesses)
    whole = TagOutcome(gold, predicted, kinds, RESAMPLES)
    truth = whole.score("entity_f1").value or 0.0

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        score = whole.take(rng.integers(0, len(gold), n)).score("entity_f1")
        return truth, score.low, score.high

    return draw


def of_text(n: int) -> Draw:
    rng = np.random.default_rng(1)
    size = rng.integers(40, 2_000, 50_000).astype(np.float64)
    nats = size * rng.gamma(20, 0.05, len(size))
    truth = float(nats.sum() / size.sum() / math.log(2))

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        chosen = rng.integers(0, len(size), n)
        score = TextOutcome(nats[chosen], size[chosen]).score("bpb")
        return truth, score.low, score.high

    return draw


def of_clusters(clusters: int, known: bool) -> Draw:
    """Accuracy where the rows of a cluster (1 to 7 of them) are right or wrong together in most cases."""

    def draw(rng: np.random.Generator) -> tuple[float, float | None, float | None]:
        sizes = rng.integers(1, 8, clusters)
        cluster = np.repeat(np.arange(clusters), sizes)
        easy = rng.beta(2.4, 0.6, clusters)[cluster]
        gold = np.zeros(len(cluster), dtype=np.int64)
        predicted = (rng.random(len(cluster)) > easy).astype(np.int64)
        score = ClassOutcome(["a", "b"], gold, predicted, cluster_N=cluster if known else None).score("accuracy")
        return 0.8, score.low, score.high

    return draw


CASES: dict[str, Callable[[], Draw]] = {
    "accuracy, 100 rows": lambda: of_classes("accuracy", 100, 10),
    "accuracy, 1,000 rows": lambda: of_classes("accuracy", 1000, 10),
    "macro-F1, 20 classes, 400 rows": lambda: of_classes("macro_f1", 400, 20),
    "macro-F1, 77 classes, 500 rows": lambda: of_classes("macro_f1", 500, 77),
    "macro-F1, 77 classes, 2,000 rows": lambda: of_classes("macro_f1", 2000, 77),
    "MCC, 10 classes, 300 rows": lambda: of_classes("mcc", 300, 10),
    "F1 of one label of ten, 300 rows": lambda: of_label(300),
    "AUROC, 200 rows": lambda: of_ranking("auroc", 200),
    "average precision, 200 rows": lambda: of_ranking("average_precision", 200),
    "entity F1, 300 sentences": lambda: of_entities(300),
    "bits per byte, 100 documents": lambda: of_text(100),
    "accuracy in 150 clusters": lambda: of_clusters(150, known=True),
    "the same, clusters not known": lambda: of_clusters(150, known=False),
}


def coverage(draws: int) -> Iterator[tuple[str, float]]:
    """How often each interval holds the truth."""
    for number, (name, case) in enumerate(CASES.items()):
        draw, rng, held = case(), np.random.default_rng([2, number]), 0
        for _ in range(draws):
            truth, low, high = draw(rng)
            held += low is not None and high is not None and low <= truth <= high
        yield name, held / draws


def tests(draws: int) -> Iterator[tuple[str, float]]:
    """Shares of tests that find a difference: between equal models (should be 5 %), and between 85 % and 88 % right."""
    labels = [str(i) for i in range(10)]
    for name, gain in (("equal models", 0.0), ("a gain of 3 points", 0.03)):
        found = {"paired bootstrap, macro-F1": 0, "McNemar exact, accuracy": 0, "unpaired, accuracy": 0}
        rng = np.random.default_rng(3)
        for _ in range(draws):
            gold = rng.integers(0, 10, 800)
            shared = rng.random(800)
            # The two agree about most rows: what is hard for one is hard for the other.
            old_right = np.where(rng.random(800) < 0.85, shared < 0.85, rng.random(800) < 0.85)
            new_right = np.where(rng.random(800) < 0.85, shared < 0.85 + gain, rng.random(800) < 0.85 + gain)
            new, old = (
                ClassOutcome(labels, gold, np.where(right, gold, (gold + 1) % 10), resamples=RESAMPLES)
                for right in (new_right, old_right)
            )
            found["paired bootstrap, macro-F1"] += new.difference(old, "macro_f1").p < 0.05
            found["McNemar exact, accuracy"] += new.difference(old, "accuracy").p < 0.05
            counts = int(new_right.sum()), 800, int(old_right.sum()), 800
            found["unpaired, accuracy"] += statistics.unpaired_proportions(*counts).p < 0.05
        for test, count in found.items():
            yield f"{name}: {test}", count / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="draws of a test set per case")
    draws = parser.parse_args().draws
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    speed()
    print(f"\n95 % intervals that hold the truth, {draws} draws each")
    for name, share in coverage(draws):
        print(f"  {name:<40} {share:6.1%}", flush=True)
    print(f"\ntests that find a difference at p < 0.05, 800 rows, {draws} draws each")
    for name, share in tests(draws):
        print(f"  {name:<50} {share:6.1%}", flush=True)


if __name__ == "__main__":
    main()
