"""The wheel: what is in it, and that it works where there is nothing else of this project."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SMOKE = """
import sys
from pathlib import Path

import anyio

import batpak
from batpak import Coordinate, EventKind, Region, Store
from batpak.aio import AsyncStore

assert Path(batpak.__file__).is_relative_to(sys.prefix), batpak.__file__
kind = EventKind(category=0x1, type_id=0x001)
with Store.open("journal") as store:
    first = store.append(Coordinate("order:1", "shop"), kind, {"total": 10}, durable=True)


async def main() -> None:
    async with AsyncStore.open("journal") as store:
        await store.append(Coordinate("order:2", "shop"), kind, {"total": 20})
        totals = [event.payload["total"] async for event in store.read(Region(entity="order"))]
        assert totals == [10, 20], totals
        assert (await store.verify_chain()).intact


anyio.run(main)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, outside the source tree, and return what it printed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once, with the build backend that is installed."""
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=ROOT)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment that has the wheel and its dependencies, and nothing else."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--constraint", ROOT / "constraints.txt", wheel, cwd=place)
    return python


def metadata(archive: zipfile.ZipFile) -> Message:
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = metadata(archive)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "batpak").rglob("*.py")}
    assert modules <= names
    assert "batpak/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"batpak", f"batpak-{about['Version']}.dist-info"}


def test_the_wheel_says_licence_python_and_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        about = metadata(archive)
    assert about["License-Expression"] == "MIT"
    assert about.get_all("License-File") == ["LICENSE"]
    assert about["Requires-Python"] == "<3.14,>=3.11"
    needed = {line.split(">=")[0] for line in about.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == {"anyio", "blake3", "crc32c", "msgpack", "structlog"}


def test_the_installed_wheel_works_away_from_its_source(environment: Path, tmp_path: Path) -> None:
    run(environment, "-I", "-W", "error", "-c", SMOKE, cwd=tmp_path)


def test_the_quickstart_runs_on_the_installed_wheel(environment: Path, tmp_path: Path) -> None:
    printed = run(environment, "-I", "-W", "error", ROOT / "examples" / "quickstart.py", cwd=tmp_path)
    assert "intact: True" in printed


def test_a_type_checker_sees_the_annotations_of_the_installed_wheel(environment: Path, tmp_path: Path) -> None:
    program = "from batpak import Store\n\nreveal_type(Store.open('journal').sync())\n"
    (tmp_path / "user.py").write_text(program, encoding="utf-8")
    printed = run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache"),
        *("--python-executable", environment, "user.py"),
        cwd=tmp_path,
    )
    assert 'Revealed type is "int"' in printed.replace("builtins.int", "int")
