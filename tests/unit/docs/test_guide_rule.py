"""The rule of diagnosis in the developer guide works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pilot.info.job import Job
from pilot.payload.diagnose import diagnose

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "developer-guide.md"


def test_the_rule_of_the_guide_finds_what_it_says(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("## A new rule of diagnosis")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    space: dict[str, Any] = {}
    exec(code.group(1), space)  # noqa: S102
    stdout, stderr = tmp_path / "payload.stdout", tmp_path / "payload.stderr"
    stdout.touch()
    stderr.write_text("starting\nsim: licence server does not answer\n")
    job = Job("1", workdir=tmp_path)
    findings = diagnose(job, 7, stdout, stderr, more_rules=space["WithLicence"]().diagnosis_rules(job))
    assert [finding.code for finding in findings] == [1110, 1305]
    assert findings[0].text == "exit code 7: sim: licence server does not answer"
    assert findings[0].evidence == "rule no-licence: payload.stderr line 2"
    assert (findings[0].who, findings[0].retry) == ("site", "elsewhere")
