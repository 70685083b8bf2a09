"""The shipped configs and specs: found by name from an installed wheel, and written out by `init`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from jepa_ray.config import load_sweep_config, load_train_config, shipped
from jepa_ray.errors import ConfigError

ROOT = Path(__file__).parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


# ------------------------------------------------------------------------------------------- by name


def test_a_name_stands_for_a_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_sweep_config(Path("grid")) == load_sweep_config(ROOT / "sweeps" / "grid.yaml")
    assert load_train_config(Path("two_rooms")) == load_train_config(ROOT / "configs" / "two_rooms.yaml")


def test_a_file_with_that_name_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two_rooms").write_text("data: {builtin: two_rooms}\nexperiment: {name: mine}")
    assert load_train_config(Path("two_rooms")).experiment.name == "mine"


def test_a_folder_with_that_name_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").mkdir()
    assert load_sweep_config(Path("smoke")).name == "smoke"


def test_data_of_a_shipped_file_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command in its comment puts it."""
    monkeypatch.chdir(tmp_path)
    data = (tmp_path / "outputs" / "data" / "minigrid.h5").resolve()
    assert load_train_config(Path("minigrid")).data.path == data
    assert load_sweep_config(Path("minigrid")).base.data.path == data


@pytest.mark.parametrize("load", [load_train_config, load_sweep_config])
def test_an_unknown_name_is_refused_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"pusht2: is neither a file nor .* \(did you mean pusht\?\); .* pusht, "):
        load(Path("pusht2"))


@pytest.mark.parametrize("path", ["no.yaml", "./grid", "sweeps/grid"])
def test_a_path_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        load_sweep_config(Path(path) if path != "./grid" else tmp_path / "grid")


# --------------------------------------------------------------------------------- from an installed wheel


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT.anchor)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed from a wheel, which is built from a copy of the repository."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("jepa_ray", "configs", "sweeps"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    can_build = Version(metadata.version("setuptools")) >= Version("77")  # else pip installs one for the build
    pip("wheel", str(source), "--no-deps", "-w", str(source), *(["--no-build-isolation"] if can_build else []))
    wheel = next(source.glob("*.whl"))
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs `python -m ARGS...` with the installed package, in an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        # -S ignores the .pth file of an editable installation; PYTHONPATH brings the other packages back
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
        command = [sys.executable, "-S", "-P", "-m", *args]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_the_installed_package_is_the_wheel(run: Run, installed: Path) -> None:
    """A control: a test that ran the repository's package would show nothing."""
    (installed / "where.py").write_text("import jepa_ray; print(jepa_ray.__file__)")
    assert run("where").stdout.strip() == str(installed / "jepa_ray" / "__init__.py")


def test_a_wheel_ships_all_files(installed: Path) -> None:
    for kind in shipped.KINDS:
        names = sorted(path.name for path in (installed / "jepa_ray" / "shipped" / kind).iterdir())
        assert names == sorted(path.name for path in (ROOT / kind).glob("*.yaml"))


@pytest.mark.parametrize("command", [["jepa_ray.sweep"], ["jepa_ray", "sweep"]], ids=" ".join)
def test_a_spec_is_found_by_name_from_a_wheel(run: Run, command: list[str]) -> None:
    done = run(*command, "grid", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sweep grid: tpe search")


def test_an_unknown_name_is_refused_in_one_line(run: Run) -> None:
    done = run("jepa_ray.sweep", "grit", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: grit: is neither a file nor the name of a shipped spec (did you mean grid?)")
    assert "; shipped in sweeps/: anti_collapse, grid, grid_curves, grid_full" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("jepa_ray.train", "--config", "tworooms")
    assert done.returncode == 2
    assert "did you mean two_rooms?" in done.stderr


def test_init_writes_the_files_out_and_their_specs_run(run: Run, tmp_path: Path) -> None:
    done = run("jepa_ray", "init")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "empty"
    for kind in shipped.KINDS:
        assert {path.name: path.read_text() for path in (folder / kind).iterdir()} == {
            path.name: path.read_text() for path in (ROOT / kind).glob("*.yaml")
        }
    done = run("jepa_ray.sweep", "sweeps/smoke.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_init_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "empty" / "here" / "sweeps" / "grid.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = run("jepa_ray", "init", "here")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: here/sweeps/grid.yaml: already exists, and is not overwritten: use another folder, or remove the file\n"
    )
    assert [path for path in (tmp_path / "empty").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_init_into_a_place_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty" / "file").touch()
    done = run("jepa_ray", "init", "file")
    assert done.returncode == 2
    assert done.stderr == "error: file: cannot be written (Not a directory)\n"
