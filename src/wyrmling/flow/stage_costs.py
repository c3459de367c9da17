"""What data, tokenizer and evaluate will take: straight lines through a few measured runs, with wide bounds.

Measured on 2 cores with the three shipped examples (2,300 to 13,200 rows, 0.5 to 2.1 MB). Training is forecast by
train/forecast.py; these stages are seconds beside it.
"""

from __future__ import annotations

from wyrmling.config import Project
from wyrmling.core import hardware
from wyrmling.flow.facts import Known
from wyrmling.train.forecast import Correction, Forecast, Pricing
from wyrmling.train.sizing import Shape
from wyrmling.train.workload import BASE_GB, MATMUL

# Seconds: at the start, per row, per MB.
DATA = (0.5, 0.55e-3, 1.1)
TOKENIZER = (2.0, 0.05e-3, 1.0)
# Starting torch and loading the model; per test row for answers, intervals and report; per labelled row for baselines.
EVALUATE_START, PER_TEST_ROW, PER_TRAIN_ROW = 6.0, 2e-3, 1e-3
# Examples that a model is shown before each question.
SHOTS = 8
# A light process holds this much, and this many bytes per byte of text while rows are judged.
LIGHT_GB, BYTES_PER_BYTE = 0.14, 40.0
BAND = Correction({"minutes": 1.0, "memory_gb": 1.0, "kwh": 1.0}, {"minutes": 2.0, "memory_gb": 1.5, "kwh": 2.0}, 0)


def data(known: Known, pricing: Pricing) -> Forecast:
    """Reading, cleaning, masking, finding duplicates."""
    return _light(_line(DATA, known), known, pricing)


def tokenizer(known: Known, pricing: Pricing) -> Forecast:
    """Training the tokenizer and encoding every row."""
    return _light(_line(TOKENIZER, known), known, pricing)


def evaluate(project: Project, known: Known, shape: Shape, pricing: Pricing) -> Forecast:
    """Scoring the test rows, the baselines, the intervals and the report."""
    fit = PER_TRAIN_ROW * sum(s.rows for s in known.facts.sources) if project.settings.evaluate.baselines else 0.0
    tokens = known.test_rows * known.n_bytes / max(1, known.rows) / 3
    rates = hardware.rates(known.facts.device)
    answers = 3 * MATMUL * 2 * shape.parameters * tokens / rates.float32
    seconds = EVALUATE_START + PER_TEST_ROW * known.test_rows + fit + answers
    memory = BASE_GB[known.facts.device] + 8 * shape.parameters / 1e9 + BYTES_PER_BYTE * known.n_bytes / 1e9
    return pricing.forecast(seconds / 60, memory, BAND)


def few_shot(known: Known, shape: Shape, pricing: Pricing) -> Forecast:
    """Answering the test rows by a model that is shown some rows before each; the weights are those of 4 bytes.

    An encoder, which has no prompt, reads every row once and looks up the nearest.
    """
    rows = sum(source.rows for source in known.facts.sources)
    length = sum(source.tokens for source in known.facts.sources) / max(1, rows)
    prompted = known.test_rows * min(shape.context, (SHOTS + 1) * length)
    tokens = prompted if shape.causal else (rows + known.test_rows) * min(shape.context, length)
    rates = hardware.rates(known.facts.device)
    seconds = EVALUATE_START + MATMUL * 2 * shape.parameters * tokens / rates.float32
    return pricing.forecast(seconds / 60, BASE_GB[known.facts.device] + 4 * shape.parameters / 1e9, BAND)


def _line(rates: tuple[float, float, float], known: Known) -> float:
    start, per_row, per_megabyte = rates
    return start + per_row * known.rows + per_megabyte * known.n_bytes / 1e6


def _light(seconds: float, known: Known, pricing: Pricing) -> Forecast:
    return pricing.forecast(seconds / 60, LIGHT_GB + BYTES_PER_BYTE * known.n_bytes / 1e9, BAND)
