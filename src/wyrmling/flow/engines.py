"""What answers behind `wyrmling serve`, when it is not wyrmling itself."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wyrmling.config import Home, Project, Quantize, Serve
from wyrmling.core.errors import UsageError
from wyrmling.flow import models
from wyrmling.flow.export import export

OWN, LLAMA_CPP = "wyrmling", "llama.cpp"


def serve(
    home: Home,
    model: str,
    engine: str | None,
    *,
    host: str | None = None,
    port: int | None = None,
    quantize: Quantize | None = None,
) -> bool:
    """Serve with another engine until SIGTERM or SIGINT; False, at once, when wyrmling itself is meant.

    home     of the project, if there is one
    engine   wyrmling, llama.cpp, or a URL. None: as the project's settings say
    Raises   UsageError for an engine that is none or not installed; else as `export`, `serve.started.running` and
             `serve.run.serve_behind`
    """
    project = _project(home)
    engine = engine or (OWN if project is None else project.settings.serve.engine)
    if engine == OWN:
        return False
    from wyrmling.serve import run, started

    if engine.startswith(("http://", "https://")):
        if quantize is not None:
            raise UsageError("the other server decides how weights are rounded", fix="leave --quantize out")
        run.serve_behind(project, model, engine, host=host, port=port)
        return True
    if engine != LLAMA_CPP and engine not in started.PROGRAMS:
        names = ", ".join((OWN, LLAMA_CPP, *started.PROGRAMS))
        raise UsageError(f"there is no engine {engine!r}", fix=f"name {names}, or the URL of a server")
    if engine in started.PROGRAMS and quantize is not None:
        raise UsageError(f"{engine} rounds weights by its own settings", fix="leave --quantize out")
    project = models.project_of(home, model)
    settings, name = Serve() if project is None else project.settings.serve, Path(model).name
    with tempfile.TemporaryDirectory(prefix="wyrmling-") as temporary:
        work, form = Path(temporary), "gguf" if engine == LLAMA_CPP else "hf"
        if engine in started.PROGRAMS:
            started.check_installed(engine)
        export(models.resolve(project, model), to=form, out=work / form, quantize=quantize)
        with _started(engine, work / form, name, settings.max_sequences, work) as address:
            run.serve_behind(project, name, address, host=host, port=port)
    return True


@contextlib.contextmanager
def _started(engine: str, folder: Path, name: str, sequences: int, work: Path) -> Iterator[str]:
    """The address of an engine's API that answers for an exported model."""
    if engine == LLAMA_CPP:
        from wyrmling.serve.llamacpp import Engine

        yield f"{Engine(folder / 'model.gguf', sequences=sequences).address}/v1"
    else:
        from wyrmling.serve import started

        with started.running(engine, folder, name, sequences=sequences, work=work) as address:
            yield address


def _project(home: Home) -> Project | None:
    try:
        return home.project()
    except UsageError:
        if home != Home():
            raise
        return None
