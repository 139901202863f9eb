"""Which jobs a request may get (server-api.md 5.1 and 5.2), as an SQL condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Tuple

from sandbox.identity import clean_dn

LABELS_ASKED: Mapping[Optional[str], Tuple[str, ...]] = {
    "user": ("user", "panda", "install"),
    "managed": ("managed", "test", "prod_test", "install"),
    None: ("managed", "test", "prod_test", "install"),
    "": ("managed", "test", "prod_test", "install"),
    "unified": ("managed", "test", "prod_test", "install", "user", "panda"),
}


@dataclass(frozen=True)
class JobRequest:
    """What a pilot asks for. disk and memory in MB, remaining_time in s; 0 = no restriction."""

    site: str
    label: Optional[str] = None
    disk: float = 0
    memory: float = 0
    remaining_time: float = 0
    computing_element: Optional[str] = None
    node: Optional[str] = None
    job_type: Optional[str] = None
    prod_user: Optional[str] = None
    task_id: Optional[int] = None
    resource_type: Optional[str] = None
    harvester_id: Optional[str] = None
    worker_id: Optional[str] = None
    background: bool = False
    n_jobs: int = 1
    proxy_key: bool = False


def condition(request: JobRequest, queue_in_test: bool, only_owner: Optional[str]) -> Tuple[str, List[Any]]:
    """The condition on the table of jobs and its values.

    queue_in_test: the queue's status is test.  only_owner: clean name of the one user whose jobs may be given.
    """
    label = request.label
    if queue_in_test and label in ("user", "managed", "unified"):
        label = "test"
    where: List[str] = ["site=?"]
    values: List[Any] = [request.site]
    if label == "test" and request.computing_element is not None:
        if request.job_type == "user":
            where.append("processing_type LIKE 'gangarobot%'")
        else:
            where.append("(processing_type LIKE 'gangarobot%' OR label IN ('prod_test', 'install', 'test'))")
    elif label in LABELS_ASKED:
        where.append(f"label IN ({','.join('?' * len(LABELS_ASKED[label]))})")
        values += LABELS_ASKED[label]
    elif label != "self":
        where.append("label=?")
        values.append(label)
    for text, limit in (
        ("(max_disk=0 OR max_disk<=?)", request.disk),
        ("(min_ram=0 OR min_ram<=?)", request.memory),
        ("(max_walltime IS NULL OR max_walltime<=?)", request.remaining_time),
    ):
        if limit:
            where.append(text)
            values.append(limit)
    for column, wanted in (
        ("prod_user", clean_dn(request.prod_user) if request.prod_user else None),
        ("prod_user", only_owner),
        ("task_id", request.task_id),
        ("resource_type", request.resource_type),
    ):
        if wanted:
            where.append(f"{column}=?")
            values.append(wanted)
    if request.background:
        where.append("backgroundable=1")
    return " AND ".join(where), values
