"""The ATLAS experiment: releases by asetup from CVMFS, transforms, user jobs of runGen, runAthena and runcontainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional

from pilot.info.diagnosis import Rule
from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
from pilot.info.remoteinputs import remote_names
from pilot.user.alrb import alrb_middleware_command
from pilot.user.alrbpayload import alrb_contain
from pilot.user.atlas.cleanup import OTHERS, PATTERNS, redundant_patterns
from pilot.user.atlas.diagnosis import RULES
from pilot.user.atlas.report import report_policy
from pilot.user.base import Experiment

if TYPE_CHECKING:
    from pilot.info.cvmfs import CvmfsTree
    from pilot.info.job import Job
    from pilot.info.jobreportdata import ReportPolicy
    from pilot.info.payloadtask import Moment, PayloadCommand, PayloadTask, UtilityCommand
    from pilot.info.queuedata import QueueData


class Atlas(Experiment):
    """Source: payload document, what is marked [A] there."""

    name = "atlas"
    transform_base_urls = (
        "www.usatlas.bnl.gov",
        "pandaserver.cern.ch",
        "pandaserver-tb.cern.ch",
        "atlpan.web.cern.ch/atlpan",
        "classis01.roma1.infn.it",
        "atlas-install.roma1.infn.it",
    )
    sends_worker_node_map = True
    sends_architecture_level = True
    needs_proxy = True
    redundant_files = (*PATTERNS, *OTHERS)
    # transforms run prmon (formerly MemoryMonitor) beside each of their steps
    looping_exclusions = ("prmon*", "mem.full.*", "mem.summary.*", "memory_monitor*")

    def cvmfs_tree(self, environ: Mapping[str, str]) -> Optional[CvmfsTree]:
        """Releases, ALRB, conditions, nightlies, LCG, unpacked images: what jobs may ask for."""
        from pilot.user.atlas.cvmfs import tree

        return tree(environ)

    def transfers_input(self, lfn: str) -> bool:
        """A DBRelease is on CVMFS, unless the site wants the tarball itself (ATLAS_DBREL_DWNLD)."""
        from pilot.user.atlas.dbrelease import is_dbrelease

        return not is_dbrelease(lfn, os.environ)

    def redundant_patterns(self, job: Job) -> Sequence[str]:
        """What depends on outputs, errors and debug mode of the job; the files of Xcache."""
        return [*redundant_patterns(job), job.jobid]

    def remote_inputs(self, job: Job) -> Mapping[str, str]:
        """Production gets URLs in its parameters; transforms of users read PoolFileCatalog.xml (``--usePFCTurl``)."""
        return {} if job.is_analysis or job.is_build else remote_names(job.indata)

    def payload_command(self, task: PayloadTask) -> PayloadCommand:
        """Exports, set-up of the release, transform (payload document, section 4)."""
        from pilot.user.atlas.command import atlas_command
        from pilot.user.atlas.dbrelease import make_local_dbrelease

        make_local_dbrelease(task)
        return atlas_command(task)

    def verifies_setup(self, job: Job, queue: QueueData) -> bool:
        """Where there is a release to set up."""
        from pilot.user.atlas.asetup import is_defined

        return is_defined(job.swrelease)

    def utility(self, moment: Moment, task: PayloadTask, command: PayloadCommand) -> Sequence[UtilityCommand]:
        """Xcache, NetworkMonitor (nothing yet), the benchmark suite, prmon."""
        from pilot.info.payloadtask import Moment

        if moment is Moment.BEFORE_STAGEIN:
            from pilot.user.atlas.xcache import xcache_start

            return xcache_start(task)
        if moment is Moment.WITH_PAYLOAD:
            from pilot.user.atlas.benchmark import benchmark, chance

            return benchmark(task, chance())
        if moment is Moment.AFTER_PAYLOAD_STARTED:
            from pilot.user.atlas.prmon import memory_monitor

            return memory_monitor(task)
        if moment is Moment.AFTER_PAYLOAD_FINISHED2 and task.settings.monitor.benchmark_fraction > 0:
            from pilot.user.atlas.benchmark import add_to_report

            add_to_report(task)
        if moment is Moment.AFTER_PAYLOAD_FINISHED:
            from pilot.user.atlas.xcache import xcache_kill

            return xcache_kill(task)
        return ()

    def utility_ended(self, task: PayloadTask, utility: UtilityCommand, code: int, output: str) -> Mapping[str, str]:
        """Variables of Xcache; the benchmark's result leaves."""
        if utility.label == "xcache_start":
            from pilot.user.atlas.xcache import xcache_variables

            return xcache_variables(output)
        if utility.label == "benchmark" and code == 0:
            from pilot.user.atlas.benchmark import publish

            publish(task)
        return {}

    def report_policy(self, job: Job) -> ReportPolicy:
        """Transforms judge themselves; production has to leave a report that names every output."""
        return report_policy(job)

    def job_metrics(self, job: Job, *, final: bool) -> str:
        """Cores, events, data bases, memory leak and the like."""
        from pilot.user.atlas.metrics import job_metrics

        return job_metrics(job, os.environ, final=final)

    def middleware_command(self, task: MiddlewareTask) -> MiddlewareCommand:
        """ALRB sets the middleware up."""
        return alrb_middleware_command(task)

    def verify_proxy(self, proxy: str, *, at_start: bool) -> tuple[int, str]:
        """VOMS attributes, and 72 h before a job is asked for."""
        from pilot.user.atlas.proxy import verify_proxy

        return verify_proxy(proxy, at_start=at_start)

    def pilot_proxy_role(self) -> tuple[str, str]:
        """The production role."""
        from pilot.user.atlas.proxy import get_voms_role

        return get_voms_role("production"), ""

    def payload_proxy_role(self, job: Job) -> tuple[str, str]:
        """The user role."""
        from pilot.user.atlas.proxy import get_voms_role, getproxy_dictionary

        wanted = getproxy_dictionary(get_voms_role("user"))
        return wanted["role"], wanted.get("dn", "")

    def contain(self, task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
        """ALRB starts the container."""
        return alrb_contain(task, command)

    def diagnosis_rules(self, job: Job) -> Sequence[Rule]:
        """Texts of asetup and of the set-up scripts."""
        return RULES


EXPERIMENT = Atlas
