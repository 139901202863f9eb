"""Set-up of releases: options of asetup, where the software is, special resources."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from atlas_tasks import PRODUCTION, TREE, at_cvmfs, make_command, make_task

from pilot.common.exception import PilotException
from pilot.info.jobparser import parse_job
from pilot.user.atlas.asetup import alrb_setup, asetup_options
from pilot.user.atlas.resource import resource_setup


@pytest.mark.parametrize(
    ("swrelease", "homepackage", "options"),
    [
        # the table of the payload document, 4.2
        ("Atlas-21.0.15", "AtlasOffline/21.0.15", "AtlasOffline,21.0.15,notest"),
        ("Atlas-20.7.6", "AnalysisTransforms-AtlasDerivation_20.7.6.4", "AtlasDerivation,20.7.6.4,notest"),
        ("Atlas-22.0", "AnalysisTransforms-Athena_22.0.1", "22.0,Athena,22.0.1,notest"),
        ("Atlas-21.0.15", "AnalysisTransforms", "21.0.15,notest"),
        # job definition document, 6.1 and 8.3
        ("Atlas-23.0.53", "Athena/23.0.53", "Athena,23.0.53,notest"),
        ("Atlas-", "AnalysisTransforms-AnalysisBase_24.2.30", "AnalysisBase,24.2.30,notest"),
        # a release that the homepackage does not name comes behind it
        ("Atlas-21.0.15", "AtlasOffline", "AtlasOffline,21.0.15,notest"),
        ("Atlas-21.0.15", "NULL", "21.0.15,notest"),
        ("Atlas-21.0.15", "", "21.0.15,notest"),
        # nightlies: a branch and the time of the build
        ("Atlas-main", "Athena/main/2026-11-20T2101", "Athena,main,2026-11-20T2101,notest"),
        ("Atlas-2026-11-20T2101", "Athena/main", "Athena,main,2026-11-20T2101,notest"),
        ("Atlas-main", "AnalysisTransforms-Athena_main_2026-11-20T2101", "main,Athena,main,2026-11-20T2101,notest"),
        ("Atlas-21.0.15", "AnalysisTransforms-AtlasOffline_rel_3,here", "AtlasOffline,rel,3,here,notest"),
        # without the prefix, as generic jobs have it
        ("21.0.15", "AtlasOffline/21.0.15", "AtlasOffline,21.0.15,notest"),
    ],
)
def test_options_of_asetup(swrelease: str, homepackage: str, options: str) -> None:
    assert asetup_options(swrelease, homepackage) == options
    assert asetup_options(swrelease, homepackage, fast=True) == f"{options},fast"


def test_fast_comes_from_the_environment_of_the_payload(tmp_path: Path) -> None:
    text = make_command(tmp_path, PRODUCTION, environ={"ATLAS_FAST_ASETUP": ""}).asetup
    assert "AtlasOffline,21.0.15,notest,fast --platform" in text


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ("x86_64-slc6-gcc62-opt", " --platform x86_64-slc6-gcc62-opt"), ("NULL", ""), ("", ""), ("None", ""),
        ("x86_64-el9-gcc13-opt@el9#x86_64", " --platform x86_64-el9-gcc13-opt"), ("a;b", " --platform 'a;b'"),
    ],
)
def test_platform(tmp_path: Path, platform: str, text: str) -> None:
    asetup = make_command(tmp_path, PRODUCTION, cmtConfig=platform).asetup
    assert asetup == f"source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest{text} --makeflags='$MAKEFLAGS';"


@pytest.mark.parametrize("swrelease", ["NULL", ""])
def test_without_a_release_nothing_is_set_up(tmp_path: Path, swrelease: str) -> None:
    command = make_command(tmp_path, PRODUCTION, swRelease=swrelease)
    assert "source" not in command.line


def test_a_tree_with_odd_characters_is_quoted() -> None:
    assert alrb_setup("/my cvmfs").startswith(
        "export ATLAS_LOCAL_ROOT_BASE='/my cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase';source")


# --- without CVMFS ----------------------------------------------------------------------------------------------------


def make_bare(tmp_path: Path, queue: dict[str, Any], environ: dict[str, str]) -> str:
    return make_command(tmp_path, PRODUCTION, queue=queue,
                        environ={"ATLAS_SW_BASE": str(tmp_path / "none"), **environ}).line


def test_the_sites_own_installation(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    wanted = (f"unset RUCIO_ACCOUNT;source {tmp_path}/app/scripts/asetup.sh AtlasOffline,21.0.15,notest "
              "--platform x86_64-slc6-gcc62-opt --makeflags='$MAKEFLAGS'; Sim_tf.py")
    assert wanted in make_bare(tmp_path, {"appdir": str(tmp_path / "app")}, {})
    assert wanted in make_bare(tmp_path, {}, {"VO_ATLAS_SW_DIR": str(tmp_path / "app")})
    assert wanted in make_bare(tmp_path, {"appdir": str(tmp_path / "app")}, {"VO_ATLAS_SW_DIR": "/gone"})


@pytest.mark.parametrize(
    ("queue", "environ", "words"),
    [
        ({"appdir": "/gone/app"}, {}, "/gone/app (appdir of queue SITE_PROD"),
        ({}, {"VO_ATLAS_SW_DIR": "/gone/vo"}, "/gone/vo (VO_ATLAS_SW_DIR"),
        ({}, {}, "there is no ATLAS software on this node"),
    ],
)
def test_no_software_is_1186(tmp_path: Path, queue: dict[str, Any], environ: dict[str, str], words: str) -> None:
    with pytest.raises(PilotException) as caught:
        make_bare(tmp_path, queue, environ)
    assert caught.value.code == 1186 and words in caught.value.detail


def test_a_dead_file_system_is_1186_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, real = threading.Event(), os.path.isdir

    def hang(path: str) -> bool:
        return release.wait(60) if "atlas.cern.ch/repo" in str(path) else real(path)

    monkeypatch.setattr("pilot.user.atlas.asetup.PATIENCE", 0.05)
    monkeypatch.setattr("pilot.user.atlas.asetup.os.path.isdir", hang)
    try:
        with pytest.raises(PilotException) as caught:
            make_bare(tmp_path, {}, {})
    finally:
        release.set()
    assert caught.value.code == 1186 and "atlas.cern.ch/repo hangs" in caught.value.detail


# --- special resources ------------------------------------------------------------------------------------------------

HARVESTER = {"HARVESTER_CONTAINER_RELEASE_SETUP_FILE": "/release_setup.sh", "HARVESTER_LD_LIBRARY_PATH": "/lib",
             "HARVESTER_PYTHONPATH": "/python"}
PATHS = ("export LD_LIBRARY_PATH=$HARVESTER_LD_LIBRARY_PATH:$LD_LIBRARY_PATH;"
         "export PYTHONPATH=$HARVESTER_PYTHONPATH:$PYTHONPATH;")


@pytest.mark.parametrize(
    ("resource", "environ", "text"),
    [
        ("manytoone", HARVESTER, f"source /release_setup.sh;{PATHS}unset FRONTIER_SERVER"),
        ("ManyToOne", {"HARVESTER_CONTAINER_RELEASE_SETUP_FILE": "/r.sh"}, "source /r.sh;unset FRONTIER_SERVER"),
        ("manytoone", {}, ""),
        ("nersc", HARVESTER, f"source /release_setup.sh;{PATHS}"
         "export ATLAS_POOLCOND_PATH=/cvmfs/atlas-condb.cern.ch/repo/conditions;"
         'export FRONTIER_SERVER="(serverurl=http://atlasfrontier-ai.cern.ch:8000/atlr)'
         '(proxyurl=http://frontiercache.nersc.gov:3128)"'),
        ("jumbojobs", HARVESTER, ""),
    ],
)
def test_resources(tmp_path: Path, resource: str, environ: dict[str, str], text: str) -> None:
    task = make_task(tmp_path, PRODUCTION, environ=environ, hpc_resource=resource)
    assert resource_setup(task).text == text
    line = make_command(tmp_path, PRODUCTION, environ=environ, hpc_resource=resource).line
    assert f"unset RUCIO_ACCOUNT;{text}; Sim_tf.py" in line if text else "unset RUCIO_ACCOUNT; Sim_tf.py" in line


@pytest.mark.parametrize("fields", [{"swRelease": "NULL"}, {"container_name": "docker://x"}])
def test_many_to_one_needs_a_release_and_no_image(tmp_path: Path, fields: dict[str, str]) -> None:
    task = make_task(tmp_path, PRODUCTION, environ=HARVESTER, hpc_resource="manytoone", **fields)
    assert resource_setup(task).text == ""


@pytest.mark.parametrize("resource", ["", "grid", "titan"])
def test_everything_else_is_the_grid(tmp_path: Path, resource: str) -> None:
    task = make_task(tmp_path, PRODUCTION, hpc_resource=resource)
    assert at_cvmfs(resource_setup(task).alrb) == alrb_setup("/cvmfs") and str(TREE) in resource_setup(task).alrb


# --- job parameters, section 3 ----------------------------------------------------------------------------------------


def test_athenaopts_of_example_8_2_survive() -> None:
    text = '--maxEvents=2000 --conditionsTag default:X --athenaopts "HITtoRDO:--nprocs=$ATHENA_CORE_NUMBER"'
    assert parse_job({**PRODUCTION, "jobPars": text}, compat_requote=True).jobparams == text


def test_atlas_quotes_anew_because_its_settings_say_so() -> None:
    from pilot.cli import experiment_settings_file
    from pilot.options import Options
    from pilot.settings import load_settings

    assert load_settings(Options(), {}, experiment_settings_file("ATLAS")).jobs.compat_requote
    assert not load_settings(Options(), {}, experiment_settings_file("generic")).jobs.compat_requote
    site = load_settings(Options(overrides=["jobs.compat_requote=false"]), {}, experiment_settings_file("ATLAS"))
    assert not site.jobs.compat_requote
