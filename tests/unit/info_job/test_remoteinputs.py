"""URLs of remote inputs in job parameters: whole words, quoted as the shell wants it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.remoteinputs import remote_names, replace_lines, replace_names, with_input_guids, with_options

A = "root://se.site.org:1094//pnfs/a.root"
SIGNED = "https://se/a.root?sig=x%2Fy&exp=$1;`id`\"'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--in=a.root", f"--in={A}"),
        ("a.root", A),
        ("--in a.root,b.root --out c", f"--in {A},b.root --out c"),
        ("--in='a.root','b.root'", f"--in='{A}','b.root'"),
        ('-i "[a.root, b.root]"', f'-i "[{A}, b.root]"'),
        ("a.root a.root", f"{A} {A}"),
        ("xa.root", "xa.root"),
        ("a.root.1", "a.root.1"),
        ("a.rootx", "a.rootx"),
        ("dir/a.root", "dir/a.root"),
        ("a.root/b", "a.root/b"),
        (f"--in={A}", f"--in={A}"),
        ("-a.root", "-a.root"),
        ("pre-a.root", "pre-a.root"),
        ("file:a.root", "file:a.root"),
        ("a.root#tree", f"{A}#tree"),
        ("(a.root)", f"({A})"),
        ("", ""),
    ],
)
def test_names_are_whole_words(text: str, expected: str) -> None:
    assert replace_names(text, {"a.root": A}) == expected


def test_a_name_that_is_the_beginning_of_another_is_not_mixed_up_with_it() -> None:
    names = {"a.root": "root://1", "a.root.1": "root://2", "a": "root://3"}
    assert replace_names("a a.root a.root.1 a.root.2", names) == "root://3 root://1 root://2 a.root.2"


def test_names_with_odd_characters_are_found_too() -> None:
    assert replace_names("--in='with space.root' b", {"with space.root": A}) == f"--in='{A}' b"
    assert replace_names("--in=a=b.root", {"a=b.root": A}) == f"--in={A}"


@pytest.mark.parametrize("line", ["show a.root", "show --in=a.root", "show 'a.root'", 'show "a.root"', 'show \\"a.root',
                                  "show 'it is' \"x\" a.root", 'show "it\'s" a.root', "show 'x\" 'a.root"])
def test_a_url_reaches_the_payload_as_it_is_wherever_it_stands(line: str) -> None:
    script = "show() { printf '%s\\n' \"$@\"; }\n"
    before = subprocess.run(["/bin/bash", "-c", script + line], text=True, capture_output=True, check=True).stdout
    after = subprocess.run(["/bin/bash", "-c", script + replace_names(line, {"a.root": SIGNED})], text=True,
                           capture_output=True, check=True).stdout
    assert after == before.replace("a.root", SIGNED)


def test_without_remote_inputs_nothing_changes() -> None:
    text = "--in=a.root 'unbalanced"
    assert replace_names(text, {}) is text


def test_ten_thousand_names_are_no_matter() -> None:
    names = {f"mc23.{number:06}.root": f"root://se//{number}" for number in range(10_000)}
    text = "--in=" + ",".join(names)
    assert replace_names(text, names) == "--in=" + ",".join(names.values())


def test_only_files_that_stay_remote_have_urls() -> None:
    files = [FileSpec("a.root", status="remote_io", turl=A), FileSpec("b.root", status="transferred", turl="root://b")]
    assert remote_names(files) == {"a.root": A}


def test_variables_in_a_url_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALRB_XCACHE_PROXY", "root://cache//")
    spec = FileSpec("a.root", status="remote_io", turl="${ALRB_XCACHE_PROXY}root://se//a.root")
    assert remote_names([spec]) == {"a.root": "root://cache//root://se//a.root"}


def test_lists_of_inputs_have_urls_line_by_line() -> None:
    text = "--inputFile\na.root\n/some/dir/a.root\nb.root\nxa.root\n"
    assert replace_lines(text, {"a.root": A}) == f"--inputFile\n{A}\n{A}\nb.root\nxa.root\n"


# --- what the transforms of an experiment are told -------------------------------------------------------------------
def test_options_are_appended_once() -> None:
    assert with_options("-x 1", ["--usePFCTurl", "--directIn"]) == "-x 1 --usePFCTurl --directIn"
    assert with_options("--directIn -x", ["--usePFCTurl", "--directIn"]) == "--directIn -x --usePFCTurl"
    assert with_options("--directInput", ["--directIn"]) == "--directInput --directIn"
    assert with_options("", ["--directIn"]) == "--directIn"


FILES = [FileSpec("a.root", guid="G-A"), FileSpec("b.root", guid="G-B"), FileSpec("c.lib.tgz", guid="G-C")]


@pytest.mark.parametrize(
    ("text", "appended"),
    [
        ('-i "[b.root, a.root]" -x', "['G-B', 'G-A']"),
        ("-i \"['a.root','b.root']\"", "['G-A', 'G-B']"),
        ("-x -i '[\"a.root\"]'", "['G-A']"),
        ('-i"[a.root]"', "['G-A']"),
        ("""-r . -i '['"'"'b.root'"'"']' -o x""", "['G-B']"),  # quoted anew, as the reference passes parameters on
    ],
)
def test_guids_follow_the_order_of_the_inputs(text: str, appended: str) -> None:
    assert with_input_guids(text, FILES) == f'{text} --inputGUIDs "{appended}"'
    assert shlex.split(with_input_guids(text, FILES))[-2:] == ["--inputGUIDs", appended]


@pytest.mark.parametrize(
    "text", ["", "-x 1", '-i "[unknown.root]"', "-i a.root", '-i "[a.root]" --inputGUIDs "[]"', '--tri "[a.root]"']
)
def test_without_a_list_of_inputs_there_are_no_guids(text: str) -> None:
    assert with_input_guids(text, FILES) == text


def test_the_experiment_of_the_documentation_does_what_it_says() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs/adding-an-experiment.md").read_text()
    code = next(block.split("```")[0] for block in guide.split("```python\n") if "class WithCatalogue" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    experiment = names["WithCatalogue"]()
    remote = FileSpec("a.root", guid="G-A", status="remote_io", turl=A)
    analysis = Job("1", transformation="https://host/runGen", indata=[remote])
    assert experiment.remote_inputs(analysis) == {}
    text = experiment.job_parameters(analysis, '-i "[a.root]"')
    assert text == "-i \"[a.root]\" --usePFCTurl --directIn --inputGUIDs \"['G-A']\""
    production = Job("1", transformation="Reco_tf.py", indata=[remote])
    assert experiment.remote_inputs(production) == {"a.root": A}
    assert experiment.job_parameters(production, "-x") == "-x"
