"""Do lm-evaluation-harness and our own suites measure the same? One model, the same items, both arithmetics.

    pip install "wyrmling[lm-eval]"
    python benchmarks/harness.py MODEL BLIMP [--limit 100]

MODEL is a model folder that writes, BLIMP the folder with the 67 files of BLiMP. Three are asked; accuracies must
be equal, as they stand and per character, and the log-likelihoods of each item to 1e-3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

PARTS = ("anaphor_gender_agreement", "irregular_plural_subject_verb_agreement_1", "wh_vs_that_with_gap")
TASK = """
task: pairs
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("blimp", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    asked = parser.parse_args()

    from wyrmling.evaluate.suites import run
    from wyrmling.evaluate.suites.definition import find

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            line for part in PARTS for line in (asked.blimp / f"{part}.jsonl").read_text().splitlines()[: asked.limit]
        ]
        (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
        ours = run.run(find("blimp"), asked.model, folder)
        theirs = harness(asked.model, folder)
    found = {name: one["value"] for name, one in ours["metrics"].items()}
    # The suite's score is the mean of the parts' means, which are equally long here.
    differences = [
        abs(mine - float(other[0]))
        for answer, sample in zip(ours["answers"], theirs["samples"]["pairs"], strict=True)
        for mine, other in zip(answer["said"], sample["filtered_resps"], strict=True)
    ]
    said = {name: theirs["results"]["pairs"][f"{name},none"] for name in ("acc", "acc_norm")}
    print(json.dumps({"ours": found, "harness": said, "largest difference in nats": max(differences)}, indent=1))
    same = abs(found["choice"] - said["acc"]) < 1e-9 and abs(found["choice_norm"] - said["acc_norm"]) < 1e-9
    sys.exit(0 if same and max(differences) < 1e-3 else 1)


def harness(model: Path, folder: Path) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from wyrmling.evaluate.harness import HarnessModel

    (folder / "tasks").mkdir()
    (folder / "tasks" / "pairs.yaml").write_text(TASK.format(file=folder / "pairs.jsonl"))
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    return simple_evaluate(
        HarnessModel(model), tasks=["pairs"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )


if __name__ == "__main__":
    main()
