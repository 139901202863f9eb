"""Payloads in real containers: by podman, by bubblewrap in the place of apptainer, and by ALRB's line over that.

/tmp, where everything of a test lies, is empty inside: only what is bound is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from tests.grid.conftest import required
from tests.grid.testbed.service import MissingService
from tests.integration.harness import Farm, Pilot

PROGRAMS = Path(__file__).parent / "testbed" / "programs"
STANDINS = Path(__file__).parents[1] / "standins" / "cvmfs"


class Runtime:
    """A runtime on the farm, and what a queue needs for it."""

    def __init__(self, name: str, farm: Farm, directory: Path) -> None:
        self.name, self.farm, self.directory = name, farm, directory
        tools = PROGRAMS / ("podman" if name == "podman" else "containers")
        self.state = tempfile.mkdtemp(prefix="pod")  # podman wants short names
        self.env = {"PATH": f"{tools}:{os.environ['PATH']}", "PODMAN_STATE": self.state,
                    "PODMAN_LOG": str(directory / "arguments.txt"),
                    "APPTAINER_STANDIN_LOG": str(directory / "arguments.txt")}
        if name == "podman":
            self.image = str(self._root())
            binds = f"-v /usr:/usr:ro -v {farm.scripts}:{farm.scripts}:ro -v {farm.gates}:{farm.gates}"
        else:
            self.image = "/"
            binds = f"-B {farm.scripts},{farm.gates}"
        self.options = binds
        farm.set_queue(container_type=f"{name}:pilot", container_options=binds)

    def _root(self) -> Path:
        """A root directory whose programs are those of the host."""
        root = self.directory / "root"
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "var", "run"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if os.path.islink(f"/{name}"):
                (root / name).symlink_to(f"usr/{name}")
        return root

    def submit(self, payload: str, **fields: Any) -> int:
        return self.farm.submit_job(payload, **{"container_name": self.image, **fields})

    def start(self, *options: str, env: Any = None, **settings: Any) -> Pilot:
        return self.farm.start_pilot(*options, env={**self.env, **(env or {})}, settings=settings)

    def works(self) -> None:
        """Skip where this machine lets nobody make containers."""
        done = subprocess.run(
            ["podman", "run", "--rm", "--network=host", "-v", "/usr:/usr:ro", "--rootfs", self.image, "/bin/true"],
            env={**os.environ, **self.env}, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"podman cannot start a container on this machine: {done.stderr.strip()[-300:]}")

    def close(self) -> None:
        if self.name == "podman":  # it may have mounted its storage on itself
            subprocess.run(["umount", f"{self.state}/storage/overlay"], capture_output=True, check=False)
        shutil.rmtree(self.state, ignore_errors=True)


@pytest.fixture(params=["apptainer", "podman"])
def runtime(request: pytest.FixtureRequest, farm: Farm, tmp_path: Path) -> Iterator[Runtime]:
    program = "podman" if request.param == "podman" else "bwrap"

    def get() -> Runtime:
        if not shutil.which(program):
            raise MissingService(f"{program} is not there: 'make system-packages' installs it")
        return Runtime(request.param, farm, tmp_path)

    found = required(get)
    try:
        if request.param == "podman":
            found.works()
        yield found
    finally:
        found.close()


@pytest.fixture
def apptainer(farm: Farm, tmp_path: Path) -> Iterator[Runtime]:
    def get() -> Runtime:
        if not shutil.which("bwrap"):
            raise MissingService("bubblewrap is not there: 'make system-packages' installs it")
        return Runtime("apptainer", farm, tmp_path)

    found = required(get)
    yield found
    found.close()


def log_of(farm: Farm, job: int) -> Dict[str, str]:
    with tarfile.open(farm.outputs / farm.server.job(job)["definition"]["logFile"]) as tar:
        members = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: stream.read().decode() for name, stream in members.items() if stream is not None}


def ended(farm: Farm, job: int, pilot: Pilot, state: str = "finished") -> Dict[str, Any]:
    assert pilot.wait() == 0, pilot.output[-3000:]
    assert "Traceback" not in pilot.output
    final = farm.final(job)
    assert final["state"] == state, f"{final['pilotErrorDiag']}\n{pilot.output[-3000:]}"
    return final


def test_a_payload_and_its_surroundings(runtime: Runtime, tmp_path: Path) -> None:
    farm = runtime.farm
    (tmp_path / "outside").touch()
    proxy = tmp_path / "x509up_u1"
    proxy.write_text("a proxy")
    inside = (
        f"test ! -e {tmp_path}/outside || exit 20\n"
        'test "$(cat in.txt)" = one || exit 21\n'
        'test "$(cat $X509_USER_PROXY)" = "a proxy" || exit 22\n'
        'test "$PWD" = "$workdir" || exit 23\n'
        'echo "job=$PandaID args=$1,$2"\n'
        "echo two > out.txt\n")
    job = runtime.submit(inside, inputs={"in.txt": b"one"}, outputs=["out.txt"], jobPars="'a b' \"c;d\"")
    pilot = runtime.start(env={"X509_USER_PROXY": str(proxy)})
    ended(farm, job, pilot)
    assert (farm.outputs / "out.txt").read_bytes() == b"two\n"
    workdir = f"{pilot.directory}/PanDA_Pilot-{job}"
    assert log_of(farm, job)["payload.stdout"] == f"{workdir}\njob={job} args=a b,c;d\n"
    assert os.stat(farm.outputs / "out.txt").st_uid == os.getuid()
    assert f"{workdir}" in (tmp_path / "arguments.txt").read_text()


def test_an_input_that_is_a_link(runtime: Runtime) -> None:
    farm = runtime.farm
    farm.set_queue(copytools={"mv": {"setup": "", "copy_in": "symlink"}})
    job = runtime.submit("test -L in.txt && cat in.txt", inputs={"in.txt": b"from the storage"})
    ended(farm, job, runtime.start())
    assert "from the storage" in log_of(farm, job)["payload.stdout"]


@pytest.mark.parametrize("end, code", [("exit 7", 7), ("kill -9 $$", 137), ("exit 255", 255)])
def test_exit_codes_come_out(runtime: Runtime, end: str, code: int) -> None:
    job = runtime.submit(f"echo some last words >&2; {end}")
    final = ended(runtime.farm, job, runtime.start(), "failed")
    assert int(final["transExitCode"]) == code
    assert int(final["pilotErrorCode"]) in (1305, 1306, 1351), final["pilotErrorDiag"]


def test_a_kill_leaves_nothing(runtime: Runtime) -> None:
    farm = runtime.farm
    gate = farm.gate("payload")
    job = runtime.submit(f"sleep 1000 &\ntrap '' TERM\n{gate.shell()}")
    pilot = runtime.start(**{"pilot.heartbeat": 1, "shutdown.term_grace": 1})
    gate.reached()
    farm.wait_state(job, "starting", "running")
    farm.server.kill(job)
    assert int(ended(farm, job, pilot, "failed")["pilotErrorCode"]) == 1144
    assert farm.payload_processes() == []


def test_a_clean_environment_keeps_what_the_payload_needs(apptainer: Runtime) -> None:
    apptainer.farm.set_queue(container_options=f"-e {apptainer.options} --contain")
    job = apptainer.submit('echo "job=$PandaID home=$PILOT_HOME foreign=$FOREIGN in=$PWD"')
    pilot = apptainer.start(env={"FOREIGN": "not for it"})
    ended(apptainer.farm, job, pilot)
    assert (f"job={job} home={pilot.directory} foreign= in={pilot.directory}/PanDA_Pilot-{job}"
            in log_of(apptainer.farm, job)["payload.stdout"])


def test_an_image_without_a_shell(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "empty" / "opt").mkdir(parents=True)
    (tmp_path / "empty" / "dev").mkdir()
    runtime.farm.set_queue(container_options="")
    job = runtime.submit("true", container_name=str(tmp_path / "empty"))
    final = ended(runtime.farm, job, runtime.start(), "failed")
    assert "bash" in final["pilotErrorDiag"] and "no such file or directory" in final["pilotErrorDiag"].lower()


def test_an_image_that_is_no_directory_of_a_system(runtime: Runtime, tmp_path: Path) -> None:
    runtime.farm.set_queue(container_options="")
    job = runtime.submit("true", container_name=str(tmp_path / "there" / "is" / "none"))
    final = ended(runtime.farm, job, runtime.start(), "failed")
    assert int(final["pilotErrorCode"]) == 1360 and "does not exist on this node" in final["pilotErrorDiag"]


# --- ALRB -------------------------------------------------------------------------------------------------------------


class Alrb:
    """A production queue of ATLAS whose CVMFS tree starts real containers."""

    def __init__(self, apptainer: Runtime, directory: Path) -> None:
        self.farm, self.notes = apptainer.farm, directory / "alrb.txt"
        self.tree = directory / "cvmfs"
        shutil.copytree(STANDINS, self.tree)
        repository = self.tree / "atlas.cern.ch" / "repo"
        shutil.copy(PROGRAMS / "containers" / "atlasLocalSetup.sh", repository / "ATLASLocalRootBase" / "user")
        self.asetup = repository / "sw" / "AtlasSetup" / "scripts" / "asetup.sh"
        proxy = directory / "x509up_u1"
        proxy.write_text("a proxy")
        self.env = {**apptainer.env, "ATLAS_SW_BASE": str(self.tree), "X509_USER_PROXY": str(proxy),
                    "ALRB_STANDIN_LOG": str(self.notes)}
        self.farm.set_queue(is_cvmfs=True, container_type="apptainer:pilot", container_options=apptainer.options)

    def submit(self, **fields: Any) -> int:
        return self.farm.submit_job(outputs=["out.root"], **{
            "transformation": "Sim_tf.py", "jobPars": "--outputHITSFile=out.root", "swRelease": "Atlas-21.0.15",
            "homepackage": "AtlasOffline/21.0.15", "cmtConfig": "x86_64-el9-gcc13-opt", **fields})

    def start(self, **settings: Any) -> Pilot:
        return self.farm.start_pilot("--pilot-user", "ATLAS", env=self.env, settings=settings)


@pytest.fixture
def alrb(apptainer: Runtime, tmp_path: Path) -> Alrb:
    return Alrb(apptainer, tmp_path)


def test_production_in_a_container_of_alrb(alrb: Alrb) -> None:
    job = alrb.submit()
    pilot = alrb.start()
    ended(alrb.farm, job, pilot)
    log = log_of(alrb.farm, job)
    assert '"PWD": "/srv"' in log["transform.json"] and '"TMPDIR": "/srv"' in log["transform.json"]
    assert (alrb.farm.outputs / "out.root").read_text() == "events\n"
    notes = alrb.notes.read_text()
    assert notes.count("setup=/srv/my_release_setup.sh run=/srv/container_script.sh d=\n") == 2, "set-up tried, payload"
    assert f"options={alrb.farm.queue['container_options']} quiet=" in notes
    assert log["setup.stdout"].rstrip().endswith("Done.") and "set-up was over" in pilot.log


def test_production_in_the_image_of_its_platform(alrb: Alrb) -> None:
    """ATLAS with apptainer itself: the whole line, ALRB and asetup in it, runs inside."""
    images = alrb.tree / "atlas.cern.ch" / "repo" / "containers" / "images" / "apptainer"
    images.mkdir(parents=True)
    (images / "x86_64-el9.img").symlink_to("/")
    shutil.copytree(STANDINS / "atlas.cern.ch/repo/ATLASLocalRootBase",
                    alrb.tree / "atlas.cern.ch/repo/ATLASLocalRootBase", dirs_exist_ok=True)
    alrb.farm.set_queue(container_options=f"-B {alrb.tree}")
    job = alrb.submit()
    pilot = alrb.start(**{"container.setup_type": "apptainer"})
    ended(alrb.farm, job, pilot)
    log = log_of(alrb.farm, job)
    assert f'"PWD": "{pilot.directory}/PanDA_Pilot-{job}"' in log["transform.json"]
    assert "standin asetup AtlasOffline,21.0.15,notest" in log["payload.stdout"]
    assert "container_script.sh" not in log and log["setup.stdout"].rstrip().endswith("Done.")


def test_a_release_that_does_not_exist_in_the_container(alrb: Alrb) -> None:
    job = alrb.submit(swRelease="Atlas-99.99.99", homepackage="AtlasOffline/99.99.99")
    final = ended(alrb.farm, job, alrb.start(), "failed")
    assert int(final["pilotErrorCode"]) == 1244


def test_a_set_up_that_hangs_in_the_container(alrb: Alrb) -> None:
    gate = alrb.farm.gate("setup")
    alrb.asetup.write_text(f"trap '' TERM; sleep 1000 &\n{gate.shell()}")
    job = alrb.submit()
    pilot = alrb.start(**{"jobs.verify_setup_time": 5})
    gate.reached()
    final = ended(alrb.farm, job, pilot, "failed")
    assert int(final["pilotErrorCode"]) == 1110 and "had not ended after 5 s" in final["pilotErrorDiag"]
    assert alrb.farm.payload_processes() == []
