"""What answers behind `wyrmling serve`, when it is not wyrmling itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wyrmling.config import Home, Project, Quantize, Serve
from wyrmling.core.errors import UsageError
from wyrmling.flow import models
from wyrmling.flow.export import export

OWN, LLAMA_CPP = "wyrmling", "llama.cpp"
# Engines that run as servers of their own, and how each is started on a model folder.
STARTED_ELSEWHERE = {
    "vllm": "vllm serve FOLDER --served-model-name {model} --port 8001, and then --engine http://127.0.0.1:8001/v1",
    "openvino": "an OpenVINO Model Server with --rest_port 8001, and then --engine http://127.0.0.1:8001/v3",
}


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
    Raises   UsageError for an engine that is none, or one that has to be started first; else as `export` and
             `serve.run.serve_behind`
    """
    project = _project(home)
    engine = engine or (OWN if project is None else project.settings.serve.engine)
    if engine == OWN:
        return False
    from wyrmling.serve import run

    if engine.startswith(("http://", "https://")):
        if quantize is not None:
            raise UsageError("the other server decides how weights are rounded", fix="leave --quantize out")
        run.serve_behind(project, model, engine, host=host, port=port)
        return True
    if engine in STARTED_ELSEWHERE:
        how = STARTED_ELSEWHERE[engine].format(model=model)
        raise UsageError(f"the engine {engine} has to run already", fix=f"start {how}")
    if engine != LLAMA_CPP:
        raise UsageError(
            f"there is no engine {engine!r}", fix="name wyrmling, llama.cpp, vllm, openvino, or the URL of a server"
        )
    from wyrmling.serve.llamacpp import Engine

    with tempfile.TemporaryDirectory(prefix="wyrmling-") as temporary:
        out = Path(temporary) / "gguf"
        project = models.project_of(home, model)
        export(models.resolve(project, model), to="gguf", out=out, quantize=quantize)
        settings = Serve() if project is None else project.settings.serve
        started = Engine(out / "model.gguf", sequences=settings.max_sequences)
        run.serve_behind(project, Path(model).name, f"{started.address}/v1", host=host, port=port)
    return True


def _project(home: Home) -> Project | None:
    try:
        return home.project()
    except UsageError:
        if home != Home():
            raise
        return None
