"""pilot.py as a process: exit codes, one clear line instead of a traceback, version and packaging."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pilot import cli
from pilot.common.exception import MiddlewareImportFailure, QueuedataFailure
from pilot.settings import all_keys
from pilot.version import PILOT_VERSION

ROOT = Path(__file__).parents[3]
RUN = ["--pilot-user", "generic", "-q", "Q"]


def pilot(*argv: str, python: str = sys.executable, env: dict[str, str] | None = None, flags: tuple[str, ...] = ()):
    return subprocess.run([python, *flags, str(ROOT / "pilot.py"), *argv], capture_output=True, text=True, check=False,
                          env={**os.environ, **(env or {})}, cwd="/")


def one_line(text: str) -> str:
    assert text.startswith("pilot.py: ") and text.count("\n") == 1, text
    return text


def test_version_is_printed_from_the_single_source():
    result = pilot("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, PILOT_VERSION + "\n", "")
    assert (ROOT / "PILOTVERSION").read_text().strip() == PILOT_VERSION
    assert re.fullmatch(r"2\.\d+\.\d+\.\d+", PILOT_VERSION)


def test_help_and_errors_have_the_codes_of_argparse():
    assert pilot("--help").returncode == 0
    result = pilot("-q", "X")
    assert result.returncode == 2
    assert "--pilot-user" in one_line(result.stderr)


def test_bad_settings_are_one_line_each_and_code_65(tmp_path):
    result = pilot(*RUN, "--set", "pilot.hartbeat=5", "--set", "pilot.heartbeat=x")
    assert result.returncode == 65
    assert len(result.stderr.splitlines()) == 2
    assert "did you mean 'pilot.heartbeat'?" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("package", ["requests", "yaml"])
def test_missing_core_package_is_one_line_and_code_76(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')\n")
    result = pilot(*RUN, "--url", "http://127.0.0.1:1", "-a", str(tmp_path), env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 76
    assert package in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "3.8.18"])
def test_old_python_is_one_line_and_code_76(version):
    python = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    result = pilot("--version", python=str(python))
    assert result.returncode == 76
    assert "Python 3.9 or newer is needed" in one_line(result.stderr)


def test_script_without_its_package_is_one_line_and_code_76(tmp_path):
    (tmp_path / "pilot.py").write_text((ROOT / "pilot.py").read_text())
    command = [sys.executable, "-I", str(tmp_path / "pilot.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 76
    one_line(result.stderr)


def test_unexpected_error_is_one_line_and_code_70(monkeypatch, capsys):
    def broken(argv):
        raise ZeroDivisionError("in\nthe token=5ecr3tV4lue")
    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(RUN) == 70
    text = one_line(capsys.readouterr().err)
    assert re.search(r"unexpected ZeroDivisionError: in the token=\*{8} \(at test_entry.py:\d+\)", text)


@pytest.mark.parametrize(("error", "code"), [
    (KeyboardInterrupt(), 130), (QueuedataFailure("no such queue"), 71), (MiddlewareImportFailure("no gfal2"), 76),
    (RecursionError(), 70), (ModuleNotFoundError("No module named 'rucio'", name="rucio"), 70),
    (ModuleNotFoundError("No module named 'requests.x'", name="requests.x"), 76), (SystemExit(3), 3), (SystemExit(), 0),
])
def test_exit_code_of_an_exception(monkeypatch, capsys, error, code):
    def broken(argv):
        raise error
    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(RUN) == code
    assert "Traceback" not in capsys.readouterr().err


def test_light_commands_import_nothing_heavy():
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pilot.cli import main\nmain(['--version'])\n"
            "heavy = {'requests', 'psutil', 'yaml', 'tarfile', 'email', 'asyncio', 'multiprocessing',\n"
            " 'importlib.metadata', 'urllib.request', 'xml', 'configparser', 'difflib', 'concurrent.futures'}\n"
            "print(sorted(heavy & set(sys.modules)))")
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{PILOT_VERSION}\n[]\n"


def test_experiment_settings_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cli.py"))
    target = tmp_path / "user" / "rubin" / "default.yaml"
    target.parent.mkdir(parents=True)
    assert cli.experiment_settings_file("Rubin") is None
    target.write_text("pilot: {heartbeat: 5}\n")
    assert cli.experiment_settings_file("Rubin") == target
    assert cli.experiment_settings_file("") is None


def test_reader_of_a_command_may_leave_early(monkeypatch, capsys):
    def broken(options, settings):
        raise BrokenPipeError()
    monkeypatch.setattr(cli, "_command", broken)
    assert cli.main(["--status"]) == 0
    assert capsys.readouterr().err == ""


def test_reference_of_settings_is_generated_from_the_code(tmp_path):
    target = tmp_path / "settings.md"
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate_settings.py"), str(target)], check=True)
    text = target.read_text()
    for key, item in all_keys():
        assert f"| `{key.partition('.')[2]}` |" in text
        assert item.metadata["doc"].replace("|", "\\|").replace("<", "&lt;") in text
    assert "--harvester-submit-mode" in text


def test_package_takes_version_and_data_from_the_single_source():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == "panda-pilot"
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"file": "PILOTVERSION"}
    assert project["project"]["scripts"] == {"panda-pilot": "pilot.cli:main"}
    assert set(project["project"]["optional-dependencies"]) == {
        "rucio", "gfal", "xrootd", "s3", "gs", "logging", "messaging", "otel", "test", "docs", "sandbox", "grid"}
