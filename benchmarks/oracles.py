"""Every metric beside the library or the script that is its reference, on random cases and on their published files.

    python benchmarks/oracles.py [--cases 1000] [--conlleval FILE] [--wnut FOLDER]

Partial entity scores are compared where nervaluate is installed (1.2.1; no dependency of the project).
--conlleval is tests/data/ground_truth.txt of seqeval, for which conlleval.pl says P 68.83, R 80.83, F1 74.35.
--wnut is a folder with emerging.test.annotated and the submissions of WNUT-17 (leondz/emerging_entities_17), whose
entity F1 the shared task's paper reports. Prints the largest difference of each.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import seqeval.metrics
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import binomtest
from seqeval.scheme import IOB2
from sklearn import metrics as judge

from wyrmling.evaluate import answers, entities, statistics
from wyrmling.evaluate.class_outcome import ClassOutcome
from wyrmling.evaluate.label_set_outcome import LabelSetOutcome
from wyrmling.evaluate.tag_outcome import TagOutcome

Case = Callable[[np.random.Generator], float]
# The paper's entity F1 of each team.
WNUT = {
    "arcada": 39.98, "drexel_cci": 26.30, "flytxt": 38.35, "mic-cis.txt": 37.06, "sjtu_adapt.txt": 40.42,
    "spinningbytes.txt": 40.78, "uh_ritual": 41.86,
}  # fmt: skip
WORDS = ["the", "a", "cat", "sat", "on", "mat.", "Running", "runs,", "12", "%", "co-op"]
FEW = 2  # resamples: points need none


def classification(rng: np.random.Generator) -> float:
    """Averages, balanced accuracy and MCC, with empty classes and single rows."""
    classes, n = int(rng.integers(2, 12)), int(rng.integers(1, 80))
    gold, said = rng.integers(0, classes, n), rng.integers(0, classes, n)
    outcome, labels = (
        ClassOutcome([str(i) for i in range(classes)], gold, said, resamples=FEW),
        sorted(set(gold.tolist())),
    )
    pairs = [(outcome.score("accuracy").value, judge.accuracy_score(gold, said))]
    for average in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            of = getattr(judge, f"{name}_score")
            expected = of(gold, said, labels=labels, average=average, zero_division=0)
            pairs.append((outcome.score(f"{average}_{name}").value, expected))
    pairs.append((outcome.score("balanced_accuracy").value, judge.balanced_accuracy_score(gold, said)))
    pairs.append((outcome.score("mcc").value, judge.matthews_corrcoef(gold, said)))
    return _largest(pairs)


def probabilities(rng: np.random.Generator) -> float:
    """Log-loss, Brier score, AUROC and average precision, with ties; of two labels the second is ranked."""
    classes, n = int(rng.integers(2, 6)), int(rng.integers(2, 60))
    gold = rng.permutation(np.concatenate([np.arange(classes), rng.integers(0, classes, n)]))
    p = np.round(rng.dirichlet(np.ones(classes), len(gold)), 2) + 1e-3
    p /= p.sum(1, keepdims=True)
    outcome = ClassOutcome([str(i) for i in range(classes)], gold, p.argmax(1), p, resamples=FEW)
    onehot, ranked = np.eye(classes)[gold], range(classes) if classes > 2 else [1]
    auroc = np.mean([judge.roc_auc_score(onehot[:, c], p[:, c]) for c in ranked])
    precision = np.mean([judge.average_precision_score(onehot[:, c], p[:, c]) for c in ranked])
    return _largest(
        [
            (outcome.score("log_loss").value, judge.log_loss(gold, p, labels=range(classes))),
            (outcome.score("brier").value, judge.brier_score_loss(gold, p, labels=range(classes), scale_by_half=False)),
            (outcome.score("auroc").value, auroc),
            (outcome.score("average_precision").value, precision),
        ]
    )


def multilabel(rng: np.random.Generator) -> float:
    """Several labels a row: averages, samples, accuracy, Hamming loss."""
    n, classes = int(rng.integers(1, 50)), int(rng.integers(2, 8))
    gold, said = (rng.random((n, classes)) < share for share in rng.random(2))
    if not gold.any():
        return 0.0
    outcome = LabelSetOutcome([str(i) for i in range(classes)], gold, said, resamples=FEW)
    labels = np.flatnonzero(gold.any(0))
    pairs = []
    for average in ("micro", "macro", "weighted", "samples"):
        for name in ("precision", "recall", "f1"):
            some = None if average in ("micro", "samples") else labels
            of = getattr(judge, f"{name}_score")
            expected = of(gold, said, average=average, zero_division=0, labels=some)
            pairs.append((outcome.score(f"{average}_{name}").value, expected))
    pairs.append((outcome.score("accuracy").value, judge.accuracy_score(gold, said)))
    pairs.append((outcome.score("hamming_loss").value, judge.hamming_loss(gold, said)))
    return _largest(pairs)


def _tags(rng: np.random.Generator, n: int, prefixes: str) -> list[str]:
    choices = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "ORG"))]
    return [choices[i] for i in rng.integers(0, len(choices), n)]


def tagging(rng: np.random.Generator) -> float:
    """Entity precision, recall and F1 of tags in any order, and strictly by IOB2."""
    lengths = rng.integers(1, 15, int(rng.integers(1, 8))).tolist()
    gold, said = ([_tags(rng, n, "BIES") for n in lengths] for _ in range(2))
    strict_gold, strict_said = ([_tags(rng, n, "BI") for n in lengths] for _ in range(2))
    loose = TagOutcome(gold, said, entities.entity_types(gold, said), resamples=FEW)
    strict = TagOutcome(strict_gold, strict_said, entities.entity_types(strict_gold, strict_said), resamples=FEW)
    pairs = []
    for name in ("precision", "recall", "f1"):
        of = getattr(seqeval.metrics, f"{name}_score")
        pairs.append((loose.score(f"entity_{name}").value, of(gold, said)))
    expected = seqeval.metrics.f1_score(strict_gold, strict_said, mode="strict", scheme=IOB2)
    pairs.append((strict.score("strict_entity_f1").value, expected))
    return _largest([pair for pair in pairs if pair[0] is not None])


def partly(rng: np.random.Generator) -> float:
    """Entities of any type that overlap count half."""
    from nervaluate import Evaluator

    lengths = rng.integers(1, 15, int(rng.integers(1, 8))).tolist()
    gold, said = ([_tags(rng, n, "BI") for n in lengths] for _ in range(2))
    types = entities.entity_types(gold, said)
    if not types:
        return 0.0
    outcome = TagOutcome(gold, said, types, resamples=FEW)
    spans = (
        [[{"label": one.type, "start": one.start, "end": one.end} for one in entities.entities(row)] for row in rows]
        for rows in (gold, said)
    )
    found = Evaluator(*spans, tags=types, loader="dict").evaluate()["overall"]["partial"]
    pairs = [(outcome.score(f"partial_entity_{name}").value, getattr(found, name)) for name in ("precision", "recall")]
    pairs.append((outcome.score("partial_entity_f1").value, found.f1))
    return _largest([pair for pair in pairs if pair[0] is not None])


def _sentences(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    def one() -> str:
        return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), int(rng.integers(0, 12))))

    n = int(rng.integers(1, 6))
    return [one() for _ in range(n)], [one() for _ in range(n)]


def translation(rng: np.random.Generator) -> float:
    """BLEU and chrF of a corpus."""
    expected, said = _sentences(rng)
    pairs = []
    for name, library in (("bleu", BLEU()), ("chrf", CHRF())):
        metric = answers.CORPUS[name]
        value = float(metric.of(metric.counts(expected, said).sum(0)))
        pairs.append((value, library.corpus_score(said, [expected]).score))
    return _largest(pairs)


def summaries(rng: np.random.Generator) -> float:
    """ROUGE-1, 2 and L."""
    expected, said = _sentences(rng)
    library = RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = []
    for name in ("rouge1", "rouge2", "rougeL"):
        values = [library.score(a, b)[name].fmeasure for a, b in zip(expected, said, strict=True)]
        pairs.append((float(answers.ROWS[name].of(expected, said).mean()), float(np.mean(values))))
    return _largest(pairs)


def proportions(rng: np.random.Generator) -> float:
    """Wilson's interval and exact McNemar."""
    n = int(rng.integers(1, 500))
    k, fixed, broken = (int(rng.integers(0, n + 1)) for _ in range(3))
    interval, scipys = statistics.wilson(k, n), binomtest(k, n).proportion_ci(method="wilson")
    pairs = [(interval.low, scipys.low), (interval.high, scipys.high)]
    if fixed + broken:
        pairs.append((statistics.mcnemar(fixed, broken), binomtest(fixed, fixed + broken).pvalue))
    return _largest(pairs)


def _largest(pairs: list[tuple[float | None, float]]) -> float:
    return max((abs((a if a is not None else np.nan) - b) for a, b in pairs), default=0.0)


CASES: dict[str, tuple[Case, str]] = {
    "classification": (classification, "scikit-learn"),
    "probabilities": (probabilities, "scikit-learn"),
    "several labels a row": (multilabel, "scikit-learn"),
    "entities": (tagging, "seqeval"),
    **({"entities in part": (partly, "nervaluate")} if find_spec("nervaluate") else {}),
    "BLEU, chrF": (translation, "sacrebleu"),
    "ROUGE": (summaries, "rouge-score"),
    "Wilson, McNemar": (proportions, "scipy"),
}


def sentences(file: Path, column: int) -> list[list[str]]:
    """The tags in one column of a file with a word on a line; the first of several, empty lines between sentences."""
    found: list[list[str]] = [[]]
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = line.split()
        if not cells:
            found.append([])
        else:
            found[-1].append(cells[column].split(",")[0])
    return [row for row in found if row]


def conlleval(file: Path) -> None:
    gold, said = sentences(file, -2), sentences(file, -1)
    outcome = TagOutcome(gold, said, entities.entity_types(gold, said), resamples=FEW)
    names = ("entity_precision", "entity_recall", "entity_f1", "macro_entity_f1", "strict_entity_f1")
    print("conlleval's file:", {name: round(100 * (outcome.score(name).value or 0), 2) for name in names})


def wnut(folder: Path) -> None:
    """Tags are compared by position: one team wrote other words."""
    gold = [[tag for row in sentences(folder / "emerging.test.annotated", -1) for tag in row]]
    for team, published in WNUT.items():
        said = [[tag for row in sentences(folder / team, -1) for tag in row]]
        outcome = TagOutcome(gold, said, entities.entity_types(gold, said), resamples=FEW)
        print(f"WNUT-17 {team}: {100 * (outcome.score('entity_f1').value or 0):.2f}, published {published}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--conlleval", type=Path)
    parser.add_argument("--wnut", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| metrics | beside | cases | largest difference |\n|---|---|---:|---:|")
    for name, (case, library) in CASES.items():
        rng = np.random.default_rng(0)
        worst = max(case(rng) for _ in range(asked.cases))
        print(f"| {name} | {library} | {asked.cases:,} | {worst:.1e} |", flush=True)
    if asked.conlleval:
        conlleval(asked.conlleval)
    if asked.wnut:
        wnut(asked.wnut)


if __name__ == "__main__":
    main()
