"""Rewriting of the job parameters: golden values of the reference, and where we do better."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys

import pytest

from pilot.info.jobparams import JobParameters, rewrite_job_parameters, split_words
from pilot.info.writetofile import MAX_LISTS, apply_write_to_file, parse_write_to_file

GOLDEN = [
    ("a b c", "a b c"),
    ('plain "two words"', 'plain "two words"'),
    ("""-a 'x y'   -b "$HOME"  --n -1 -c""", "-a 'x y' -b '$HOME' --n -1 -c"),
    ('-a b "unbalanced', '-a b "unbalanced'),
    ("-a 1 -a 2 --athenaopts='--nprocs=8' --z", "-a 1 -a 2 --athenaopts=--nprocs=8 --z"),
    ('-a 1 --athenaopts "A:--n=$X B:--m=1" --z "q w"', """-a 1 --athenaopts "A:--n=$X B:--m=1" --z 'q w'"""),
    ("--x=1 --overwriteQueuedata={allowdirectaccess=True} -y 2", "--x=1 -y 2"),
    ("""-p x --overwriteQueueData "{'a': 1}" --overwriteStorageData "{'R': {'b': 2}}" tail""", "-p x tail"),
    ("-p x --overwriteQueueData {'a':1}", "-p x"),
    ("-p x --overwriteQueueData={'a':1}", "-p x '--overwriteQueueData={a:1}'"),
    ("--x 1 '<ZIP_MAP>a.zip:f1,f2 b.zip:f3</ZIP_MAP>' -y", "--x 1 -y"),
    ("-p x --containerImage docker://atlas/ab:1 -q", "-p x -q"),
    ("-p x --containerImage=docker://atlas/ab:1", "-p x"),
    ("-p x --accessmode=copy --accessmode=direct", "-p x --accessmode=copy --accessmode=direct"),
    ("-p x --accessmode=direct", "-p x --accessmode=direct"),
    ("-p x --useLocalIO", "-p x --useLocalIO"),
]
UNTOUCHED_BY_DEFAULT = {GOLDEN[2][0], GOLDEN[4][0], GOLDEN[5][0]}


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_compatible_requoting_gives_the_golden_values(text, expected):
    if "QueueData=" in text:
        expected = "-p x"  # the reference lets this form through to the payload
    assert rewrite_job_parameters(text, compat_requote=True).text == expected


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_by_default_nothing_is_quoted_anew_without_need(text, expected):
    if text in UNTOUCHED_BY_DEFAULT:
        expected = text
    elif "QueueData=" in text:
        expected = "-p x"
    assert rewrite_job_parameters(text).text == expected


def test_overrides_of_queue_and_storage_are_taken_out():
    result = rewrite_job_parameters(GOLDEN[7][0])
    assert result == JobParameters("-p x tail", {"a": 1}, {"R": {"b": 2}})
    assert rewrite_job_parameters(GOLDEN[7][0], compat_requote=True) == result


@pytest.mark.parametrize("compat", [False, True])
def test_unquoted_override_and_the_one_with_an_equals_sign_count(compat):
    for text in (GOLDEN[8][0], GOLDEN[9][0]):
        assert rewrite_job_parameters(text, compat_requote=compat).overwrite_queuedata == {"a": 1}


@pytest.mark.parametrize(
    "option",
    [
        """--overwriteQueueData='{"a": true, "b": {"c": null}}'""",
        """--overwriteQueueData '{"a": true, "b": {"c": null}}'""",
        """--overwriteQueueData "{'a': True, 'b': {'c': None}}" """,
        """--overwriteQueueData={'a': True, 'b': {'c': None}}""",
        """--overwriteQueueData {'a': True,'b': {'c': None}}""",
    ],
)
def test_override_is_understood_in_every_form(option):
    result = rewrite_job_parameters(f"-p 1 {option} tail")
    assert result.overwrite_queuedata == {"a": True, "b": {"c": None}}
    assert result.text == "-p 1 tail"


def test_the_last_override_wins_and_all_are_removed():
    result = rewrite_job_parameters("""--overwriteQueueData "{'a': 1}" -x --overwriteQueueData "{'a': 2}" """)
    assert (result.text, result.overwrite_queuedata) == ("-x", {"a": 2})


@pytest.mark.parametrize("value", ["", "[1]", "{1: 2}", "{'a': f()}", "{'a': 1", "__import__('os')", "{'a'}"])
def test_override_that_is_no_dictionary_is_ignored(value):
    result = rewrite_job_parameters(f"-p 1 --overwriteQueueData {shlex.quote(value)} -q")
    assert result.overwrite_queuedata == {}
    assert result.text == "-p 1 -q"


def test_storage_override_must_map_endpoints_to_dictionaries():
    assert rewrite_job_parameters("""--overwriteStorageData "{'R': 1}" """).overwrite_storagedata == {}


def test_athena_options_stay_as_they_are_when_an_override_is_taken_out():
    text = """--athenaopts "A:--n=$X" --overwriteQueueData "{'a': 1}" --z "q w" """
    assert rewrite_job_parameters(text).text == """--athenaopts "A:--n=$X" --z 'q w'"""


def test_override_inside_a_quoted_argument_belongs_to_the_payload():
    text = """-p "run --overwriteQueueData {} now" """
    assert rewrite_job_parameters(text).text == text


def test_unbalanced_quotes_leave_the_text_untouched():
    text = """-p "x --overwriteQueueData "{'a': 1}" tail"""
    for compat in (False, True):
        assert rewrite_job_parameters(text, compat_requote=compat).text == text


@pytest.mark.parametrize(
    ("text", "rest", "image"),
    [
        ("--containerImage=docker://a/b:1 -q", "-q", "docker://a/b:1"),
        ("--containerImage docker://a/b:1", "", "docker://a/b:1"),
        ("-p --containerImage 'docker://a/b:1'", "-p", "docker://a/b:1"),
        ("-x --containerImage=a --containerImage=b -y", "-x -y", "b"),
        ('-p "run --containerImage=a" -q', '-p "run --containerImage=a" -q', ""),
        ("-p --containerImage", "-p --containerImage", ""),
        ("-p --containerImage --next", "-p --containerImage --next", ""),
        ("-p --containerImages=x", "-p --containerImages=x", ""),
    ],
)
def test_container_image_is_taken_out_wherever_it_stands(text, rest, image):
    result = rewrite_job_parameters(text)
    assert (result.text, result.imagename) == (rest, image)


@pytest.mark.parametrize(
    ("text", "rest", "zipmap"),
    [
        ("-a <ZIP_MAP>x:1</ZIP_MAP> b", "-a b", "x:1"),
        ("<ZIP_MAP>x:1</ZIP_MAP> b", "b", "x:1"),
        ("a '<ZIP_MAP>x:1</ZIP_MAP>' b \"<ZIP_MAP>y:2</ZIP_MAP>\"", "a b", "x:1 y:2"),
        ("a <ZIP_MAP>x:1", "a <ZIP_MAP>x:1", ""),
        ("a </ZIP_MAP> <ZIP_MAP>", "a </ZIP_MAP> <ZIP_MAP>", ""),
    ],
)
def test_zip_map_is_taken_out(text, rest, zipmap):
    result = rewrite_job_parameters(text)
    assert (result.text, result.zipmap) == (rest, zipmap)


def test_words_that_ask_for_testing_middleware_are_taken_out():
    result = rewrite_job_parameters("--useTestASetup -p 1 --useTestXRootD --useTestXRootDX")
    assert result.text == "-p 1 --useTestXRootDX"
    assert result.usetestasetup and result.usetestxrootd
    assert not rewrite_job_parameters("-p 1").usetestasetup


def test_access_mode_is_a_plain_substring_and_copy_wins():
    assert rewrite_job_parameters("x").accessmode == ""
    assert rewrite_job_parameters("--accessmode=direct").accessmode == "direct"
    assert rewrite_job_parameters("--accessmode=direct --useLocalIO").accessmode == "copy"


def test_words_are_split_as_the_shell_does():
    generator = random.Random(4711)
    balanced = 0
    for _ in range(5000):
        text = "".join(generator.choice("ab-{}= \t\n'\"\\$é\x0b\xa0") for _ in range(generator.randrange(14)))
        words = split_words(text)
        try:
            expected = shlex.split(text)
        except ValueError:
            assert words is None, text
            continue
        balanced += 1
        assert words is not None and [word.value for word in words] == expected, text
    assert balanced > 1000


HOSTILE = {
    "blanks": " " * 10_000_000,
    "quotes": "'" * 10_000_001,
    "double quotes": '"a' * 5_000_000,
    "backslashes": "\\" * 9_999_999,
    "one word": "a" * 10_000_000,
    "old options": "--overwriteQueuedata={" * 450_000,
    "queue options": "--overwriteQueueData { " * 430_000,
    "nested options": "--overwriteQueueData {" * 200_000 + "}x " * 200_000,
    "equal options": "--overwriteQueueData={'a':" * 350_000,
    "maps": "<ZIP_MAP>" * 1_000_000,
    "map ends": "</ZIP_MAP>" * 1_000_000,
    "images": " --containerImage " * 500_000,
    "image blanks": ("--containerImage" + " " * 100_000) * 100,
    "athena": ' --athenaopts "' * 600_000,
    "flags": "--useTestASetup " * 600_000,
    "braces": "--overwriteQueueData '" + "{" * 9_000_000 + "'",
    "replaced": "TOBEREPLACED1 " * 700_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_of_ten_megabytes_is_done_in_bounded_time(name):
    # The limit of 100 s is pytest's own; quadratic time would need hours for these.
    script = (
        "import sys; from pilot.info.jobparams import rewrite_job_parameters as r; t = sys.stdin.read();"
        "r(t); r(t, compat_requote=True); print('done')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], input=HOSTILE[name], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.stdout == "done\n", result.stderr[-500:]


def test_write_to_file_moves_the_option_into_the_file():
    files = parse_write_to_file("inputFor_HITS.1.root:a.1.7,b.1.7")
    text, contents = apply_write_to_file(
        "--inputHitsFile=@inputFor_HITS.1.root --outputHitsFile=HITS.1.root --autoConfiguration=everything", files
    )
    assert text == "@inputFor_HITS.1.root.txt --outputHitsFile=HITS.1.root"
    assert contents == {"inputFor_HITS.1.root.txt": "--inputHitsFile\na.1.7\nb.1.7\n"}


def test_write_to_file_knows_several_files_and_names_without_option():
    files = parse_write_to_file("n1:a,b^n2:c^")
    assert files == {"n1": ["a", "b"], "n2": ["c"]}
    text, contents = apply_write_to_file("-x n1 -y n11 'n2'", files)
    assert text == "-x n1.txt -y n11 'n2.txt'"
    assert contents == {"n1.txt": "a\nb\n", "n2.txt": "c\n"}


@pytest.mark.parametrize("text", ["no colon", ":a", "^".join(f"n{i}:a" for i in range(MAX_LISTS + 1))])
def test_write_to_file_without_names_is_an_error(text):
    with pytest.raises(ValueError, match="name"):
        parse_write_to_file(text)
