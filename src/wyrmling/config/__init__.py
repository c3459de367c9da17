"""Every setting of a project: one module for each section of the file, by the section's name.

The description under a setting is its help, its row in ``docs/settings.md`` and its text in the JSON schema.
``None`` means "derive it"; ``wyrmling plan`` prints what was derived and why.
"""

from wyrmling.config.data import SLICED_BY, Clean, Data, Dedup, Format, Labels, Source, Split
from wyrmling.config.evaluate import ChatApi, Evaluate, Judge, Remote, Risks
from wyrmling.config.feedback import Feedback
from wyrmling.config.launch import Launch
from wyrmling.config.machine import Machine
from wyrmling.config.model import REMOTE, Model, RemoteBase
from wyrmling.config.objective import Budget, Limits, Objective, Task
from wyrmling.config.project import Home, Project, find_project, load
from wyrmling.config.reading import parse
from wyrmling.config.retrain import Retrain
from wyrmling.config.section import OneOrMore, Section, Strings
from wyrmling.config.serve import Origin, Quantize, Serve
from wyrmling.config.settings import PROJECT_FILE, Settings, schema
from wyrmling.config.tokenizer import Tokenizer
from wyrmling.config.train import (
    FewShot,
    Freeze,
    Lora,
    OptimizerName,
    Preference,
    PreferenceLoss,
    TrackerName,
    Trackers,
    TrainMethod,
    TrainObjective,
    TrainStep,
)
from wyrmling.config.tune import Tune

__all__ = [
    "PROJECT_FILE",
    "REMOTE",
    "SLICED_BY",
    "Budget",
    "ChatApi",
    "Clean",
    "Data",
    "Dedup",
    "Evaluate",
    "Feedback",
    "FewShot",
    "Format",
    "Freeze",
    "Home",
    "Judge",
    "Labels",
    "Launch",
    "Limits",
    "Lora",
    "Machine",
    "Model",
    "Objective",
    "OneOrMore",
    "OptimizerName",
    "Origin",
    "Preference",
    "PreferenceLoss",
    "Project",
    "Quantize",
    "Remote",
    "RemoteBase",
    "Retrain",
    "Risks",
    "Section",
    "Serve",
    "Settings",
    "Source",
    "Split",
    "Strings",
    "Task",
    "Tokenizer",
    "TrackerName",
    "Trackers",
    "TrainMethod",
    "TrainObjective",
    "TrainStep",
    "Tune",
    "find_project",
    "load",
    "parse",
    "schema",
]
