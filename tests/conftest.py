"""What several tests share: one small project, made once, and no network."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from filelock import FileLock
from sqlalchemy import URL, create_engine, make_url, text

from shell import write_small_project, wyrmling

# As the command line does: idle threads soon sleep instead of spinning, so a busy machine does not stall the suite.
# conftest is read before any test imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, run once for the whole session, by whichever process comes first. Tests must not change it."""
    shared = _shared(tmp_path_factory)
    folder = shared / "small" / "support-desk"
    with FileLock(shared / "small.lock"):
        if not (done := shared / "small.done").exists():
            write_small_project(folder)
            run = wyrmling("run", "--project", folder, "--quiet", check=False)
            assert run.returncode == 0, run.stdout + run.stderr
            done.touch()
    return folder


@pytest.fixture(autouse=True, scope="session")
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test may look anything up outside this machine; what is measured of it is shared, and not the user's."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    os.environ["WYRMLING_CACHE"] = str(_shared(tmp_path_factory) / "cache")


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: no search for garbage needs to look through it again."""
    gc.collect()
    gc.freeze()


def _shared(factory: pytest.TempPathFactory) -> Path:
    """The folder of this session, of all its processes."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A database of a PostgreSQL server that runs for the tests alone, or the one that WYRMLING_TEST_POSTGRES names."""
    if given := os.environ.get("WYRMLING_TEST_POSTGRES"):
        yield make_url(given)
        return
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    if not programs and on_path is None:
        pytest.fail("PostgreSQL is missing: apt-get install postgresql, or name a server in WYRMLING_TEST_POSTGRES")
    folder = programs[-1] if programs else Path(str(on_path)).parent
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="wyrmling-postgres-"))
    (home / "password").write_text("s3cret-of-the-test")
    if user:
        for path in (home, home / "password"):
            shutil.chown(path, user)

    def call(program: str, *options: str) -> None:
        done = subprocess.run(
            [folder / program, "-D", home / "data", *options], cwd=home, user=user, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        call("initdb", "-U", "wyrm", "-A", "scram-sha-256", f"--pwfile={home / 'password'}", "-N", "-E", "UTF8")
        call("pg_ctl", "-w", "-l", str(home / "log"), "-o", f"-F -h 127.0.0.1 -p {port} -k {home}", "start")
        yield URL.create("postgresql+psycopg", "wyrm", "s3cret-of-the-test", "127.0.0.1", port, "postgres")
        call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: a file, then one of a real server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'wyrmling.db'}"
        return
    server: URL = request.getfixturevalue("postgres")
    name = f"wyrmling_{os.getpid()}_{next(_NUMBERS)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield server.set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


_NUMBERS = count()
