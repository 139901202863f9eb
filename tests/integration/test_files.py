"""Inputs and outputs that are missing, wrong, many or strangely named, and transformations that are fetched."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from harness import Farm
from looks import archive, ended_well, report_of


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


# --- names -----------------------------------------------------------------------------------------------------------
STRANGE_NAMES = ["with space.txt", "it's \"quoted\".txt", "x" * 251 + ".txt", "a;touch b&.txt", "$HOME`id`.txt",
                 "100%25.txt", "umlaut-äöü-日本.txt", "#hash.txt", "a+b=c@d.txt", "*.txt"]


def test_strange_names_of_inputs_and_what_the_payload_makes_of_them(farm: Farm) -> None:
    inputs = {name: name.encode() for name in STRANGE_NAMES}
    job = farm.submit_job("for name in ./*.txt; do cmp -s \"$name\" <(printf %s \"${name#./}\") && echo good; done\n"
                          "ls | grep -c txt", inputs=inputs)
    pilot = ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    assert log_of(farm, job)["payload.stdout"].count(b"good\n") == len(STRANGE_NAMES), pilot.output


@pytest.mark.parametrize(("name", "is_input", "code"), [
    ("-n.dat", False, 1371), ("--help", True, 1371), ("z" * 256, False, 1190), ("../up.dat", False, 1371),
    ("../../etc/passwd", True, 1371), ("tab\tin.dat", False, 1371), ("/abs.dat", False, 1371), (".", False, 1371)])
def test_names_that_no_file_may_have(farm: Farm, name: str, is_input: bool, code: int) -> None:
    files: dict[str, Any] = {"outputs": [name]}
    if is_input:
        files = {"inFiles": name, "GUID": "A", "fsize": "1", "checksum": "ad:00010001", "scopeIn": "test",
                 "realDatasetsIn": "ds"}
    job = farm.submit_job("echo it ran", **files)
    pilot = ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    assert "it ran" not in pilot.log
    assert "payload.stdout" not in log_of(farm, job), "the payload was not run"


def test_catalogue_names_every_input(farm: Farm) -> None:
    inputs = {name: name.encode() for name in STRANGE_NAMES}
    job = farm.submit_job("cp PoolFileCatalog.xml kept.xml", inputs=inputs)
    ended_well(farm.run_pilot())
    root = ElementTree.fromstring(log_of(farm, job)["kept.xml"])
    assert {pfn.get("name") for pfn in root.iter("pfn")} == set(inputs)
    guids = farm.server.job(job)["definition"]["GUID"].split(",")
    assert [entry.get("ID") for entry in root.iter("File")] == guids


@pytest.mark.parametrize("name", ["with space.dat", "it's.dat", "y" * 251 + ".dat", "a;b&c.dat", "$HOME.dat"])
def test_strange_names_of_outputs(farm: Farm, name: str) -> None:
    quoted = name.replace("'", "'\\''")
    job = farm.submit_job(f"echo result > './{quoted}'", outputs=[name])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert name in report_of(final)
    assert (farm.outputs / name).read_text() == "result\n"


def test_output_name_that_is_not_ascii_fails_with_its_own_code(farm: Farm) -> None:
    job = farm.submit_job("echo result > 'ä.dat'", outputs=["ä.dat"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1371)
    assert "ASCII" in final["pilotErrorDiag"]


# --- many, and the ways they come and go -----------------------------------------------------------------------------
def test_hundred_inputs(farm: Farm) -> None:
    inputs = {f"in{number:03}.dat": os.urandom(1000) for number in range(100)}
    whole = b"".join(inputs.values())
    job = farm.submit_job("cat in*.dat > out.dat", inputs=inputs, outputs=["out.dat"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["nInputFiles"])) == ("finished", 100)
    assert (farm.outputs / "out.dat").read_bytes() == whole


@pytest.mark.parametrize(("copy_in", "there", "link"),
                         [("symlink", True, True), ("cp", True, False), ("mv", False, False)])
@pytest.mark.parametrize("copy_out", ["mv", "cp"])
def test_ways_in_and_out(farm: Farm, copy_in: str, there: bool, link: bool, copy_out: str) -> None:
    farm.set_queue(copytools={"mv": {"copy_in": copy_in, "copy_out": copy_out}})
    job = farm.submit_job("test -L in.txt && echo link; cat in.txt > out.dat", inputs={"in.txt": b"content"},
                          outputs=["out.dat"])
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    assert (farm.inputs / "in.txt").exists() is there
    assert (log_of(farm, job)["payload.stdout"] == b"link\n") is link
    assert (farm.outputs / "out.dat").read_bytes() == b"content"


def test_md5_checksums(farm: Farm) -> None:
    digest = hashlib.md5(b"content").hexdigest()
    job = farm.submit_job(inputs={"in.txt": b"content"}, checksum=f"md5:{digest}")
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    wrong = farm.submit_job(inputs={"in.txt": b"content"}, checksum=f"md5:{digest[::-1]}")
    ended_well(farm.run_pilot())
    assert farm.final(wrong)["state"] == "failed"
    assert digest in farm.final(wrong)["pilotErrorDiag"]


# --- inputs that are not what they should be -------------------------------------------------------------------------
@pytest.mark.parametrize("copy_in", ["symlink", "cp", "mv"])
@pytest.mark.parametrize(("spoil", "code", "words"), [
    ("missing", 1331, "input in.txt not found"), ("size", 1099, "size mismatch for in.txt: catalog=7 B local=16 B"),
    ("checksum", 1171, "checksum (catalog)=0bcb02fc != checksum (local)=084b021c"),
    ("directory", 1331, "in.txt is no regular file")])
def test_bad_inputs(farm: Farm, copy_in: str, spoil: str, code: int, words: str) -> None:
    farm.set_queue(copytools={"mv": {"copy_in": copy_in}})
    job = farm.submit_job("echo it ran", inputs={"in.txt": b"content", "good.txt": b"good"})
    path = farm.inputs / "in.txt"
    if spoil == "missing":
        path.unlink()
    elif spoil == "size":
        path.write_bytes(b"content and more")
    elif spoil == "checksum":
        path.write_bytes(b"CONTENT")
    else:
        path.unlink()
        path.mkdir()
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed"
    assert int(final["pilotErrorCode"]) == code, final["pilotErrorDiag"]
    assert words in final["pilotErrorDiag"]
    assert "1 of 2 files failed" in final["pilotErrorDiag"]
    assert "payload.stdout" not in log_of(farm, job), "the payload was not run"
    assert not final.get("transExitCode") or int(final["transExitCode"]) == 0


# --- outputs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("script", "code", "words"), [
    ("echo ok > good.dat", 1165, "out.dat"), ("echo ok > good.dat; : > out.dat", 1191, "out.dat"),
    ("echo ok > good.dat; mkdir out.dat", 1165, "directory"),
    ("echo ok > good.dat; ln -s nowhere out.dat", 1165, "dangling"),
    ("echo ok > good.dat; ln -s /etc/passwd out.dat", 1165, "link"),
    ("echo ok > good.dat; mkfifo out.dat", 1165, "out.dat")])
def test_bad_outputs(farm: Farm, script: str, code: int, words: str) -> None:
    job = farm.submit_job(script, outputs=["good.dat", "out.dat"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code)
    assert words in final["pilotErrorDiag"]
    assert int(final["transExitCode"]) == 0
    assert list(report_of(final)) == [farm.server.job(job)["definition"]["logFile"]]
    assert not (farm.outputs / "good.dat").exists(), "all or none"


def test_outputs_that_may_be_missing(farm: Farm) -> None:
    job = farm.submit_job("echo 1 > a.dat; : > b.dat", outputs=["a.dat", "b.dat", "c.dat"], allowNoOutput="b.dat,c.dat")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert set(report_of(final)) == {"a.dat", farm.server.job(job)["definition"]["logFile"]}
    farm.server.run_adder()
    assert farm.state(job) == "finished"


def test_outputs_by_pattern(farm: Farm) -> None:
    pattern = "regex|^out_.*\\.root$"
    job = farm.submit_job("echo 1 > out_1.root; echo 2 > out_2.root; echo 3 > other.root", outputs=[pattern])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert set(report_of(final)) == {"out_1.root", "out_2.root", farm.server.job(job)["definition"]["logFile"]}
    farm.server.run_adder()
    assert farm.state(job) == "finished"


@pytest.mark.parametrize(("pattern", "code"), [("regex|(", 1302), ("regex|^nothing_.*$", 1165)])
def test_patterns_that_give_nothing(farm: Farm, pattern: str, code: int) -> None:
    job = farm.submit_job("echo 1 > out.root", outputs=[pattern])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]


def test_extra_outputs_are_reported(farm: Farm) -> None:
    job = farm.submit_job("echo 1 > out.dat; echo 2 > out.dat._1; echo 3 > out.dat._2", outputs=["out.dat"])
    ended_well(farm.run_pilot())
    assert {"out.dat", "out.dat._1", "out.dat._2"} < set(report_of(farm.final(job)))
    farm.server.run_adder()
    assert farm.state(job) == "finished"


def test_output_directory_that_does_not_exist(farm: Farm) -> None:
    job = farm.submit_job("echo 1 > out.dat", outputs=["out.dat"])
    os.rmdir(farm.outputs)
    farm.outputs.write_text("a file in its place")
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed"
    assert int(final["pilotErrorCode"]) == 1199
    assert "outputs" in final["pilotErrorDiag"]


# --- the transformation as a URL -------------------------------------------------------------------------------------
@pytest.fixture
def transforms(farm: Farm) -> Path:
    directory = farm.directory / "trf"
    directory.mkdir()
    farm.server.server.options = type(farm.server.server.options)(True, True, directory)
    (directory / "run.sh").write_text("#!/bin/bash\necho \"I am $0 with $1\"\n")
    (directory / "empty.sh").write_text("")
    (directory / "page.sh").write_text("<!DOCTYPE html>\n<html><body>Not what you want</body></html>\n")
    return directory


def test_transformation_below_an_allowed_base(farm: Farm, transforms: Path) -> None:
    url = f"{farm.server.url}/trf/run.sh"
    job = farm.submit_job(transformation=url, jobPars="'an argument'")
    ended_well(farm.run_pilot("-g", f"{farm.server.url}/trf"))
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    assert log_of(farm, job)["payload.stdout"] == b"I am ./run.sh with an argument\n"


@pytest.mark.parametrize(("name", "base", "words"), [
    ("trf/run.sh", "http://other.example.org/trf", "invalid base URL"),
    ("trf/run.sh", "http://127.0.0.1:1/trf", "invalid base URL"), ("trf/none.sh", "", "HTTP 404"),
    ("trf/empty.sh", "", "an empty file"), ("trf/page.sh", "", "a web page"), ("trf/..%2f..%2frun.sh", "", "unsafe")])
def test_transformations_that_are_refused(farm: Farm, transforms: Path, name: str, base: str, words: str) -> None:
    job = farm.submit_job(transformation=f"{farm.server.url}/{name}")
    ended_well(farm.run_pilot("-g", base or f"{farm.server.url}/trf"))
    final = farm.final(job)
    assert final["state"] == "failed"
    assert (int(final["pilotErrorCode"]), words in final["pilotErrorDiag"]) == (1149, True), final["pilotErrorDiag"]
    assert "payload.stdout" not in log_of(farm, job)


def test_transformation_is_asked_for_again(farm: Farm, transforms: Path) -> None:
    farm.server.faults.add("trf", "http_500")
    job = farm.submit_job(transformation=f"{farm.server.url}/trf/run.sh")
    ended_well(farm.run_pilot("-g", f"{farm.server.url}/trf"))
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
