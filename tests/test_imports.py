"""The direction of imports, and the parts that must start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "wyrmling"

# What each part may import. A part may always import itself.
STAGES = {"data", "tokenizer", "model", "feedback"}
GROUND = {"config", "core"}
ALLOWED = {
    "core": set(),
    "config": {"core"},
    **dict.fromkeys(STAGES, GROUND),
    "evaluate": STAGES | GROUND,
    "serve": STAGES | GROUND,
    "train": {"evaluate"} | STAGES | GROUND,
    "flow": {"train", "evaluate", "serve"} | STAGES | GROUND,
    "studio": {"flow", "train", "evaluate", "serve"} | STAGES | GROUND,
    "cli": {"studio", "flow", "train", "evaluate", "serve"} | STAGES | GROUND,
}
WITHOUT_TORCH = [
    "wyrmling.cli",
    "wyrmling.config",
    *(f"wyrmling.{p}" for p in ("core", "data", "tokenizer", "feedback", "flow")),
]
EVALUATE = ("metrics", "statistics", "baselines", "accept", "verdict", "report", "measure")
WITHOUT_TORCH += [f"wyrmling.evaluate.{module}" for module in EVALUATE]


def part_of(module: str) -> str | None:
    names = module.split(".")
    return names[1] if names[0] == "wyrmling" and len(names) > 1 and names[1] in ALLOWED else None


def imported_parts(file: Path) -> set[str]:
    package = ["wyrmling", *file.relative_to(SOURCE).with_suffix("").parts][:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module or ""]).strip(".")
            found |= {part_of(module)} | {part_of(f"{module}.{alias.name}") for alias in node.names}
    return {part for part in found if part}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(file):
    own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ALLOWED:
        assert imported_parts(file) - {own} <= ALLOWED[own]


def modules_under(name: str) -> list[str]:
    folder = SOURCE.joinpath(*name.split(".")[1:])
    if folder.is_dir():
        return [f"{name}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return [name]


def test_the_light_parts_start_without_torch():
    modules = [module for name in WITHOUT_TORCH for module in modules_under(name)]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "    assert 'transformers' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys, wyrmling.cli\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'sqlalchemy', 'sklearn', 'pydantic', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_pickle_and_no_dynamic_code():
    """Weights are safetensors and nothing read from a file is run."""
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {"pickle", "joblib", "marshal", "shelve"} & {a.name for a in node.names}, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "torch.save", "eval", "exec", "pickle.load", "pickle.loads"}, file


def test_no_file_is_named_for_nothing():
    empty_words = {"utils", "util", "helpers", "common", "misc", "base", "manager", "factory"}
    assert not [f for f in SOURCE.rglob("*.py") if f.stem in empty_words]
