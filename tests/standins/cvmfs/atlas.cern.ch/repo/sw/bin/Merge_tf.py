#!/usr/bin/env python3
"""Stand-in for a job transform: see tests/standins/README.md."""

import json
import os
import sys

outputs = []
exit_code = 0
for word in sys.argv[1:]:
    name, _, value = word.partition("=")
    if name.startswith("--output") and name.endswith("File"):
        outputs += value.split(",")
    elif name == "--exitCode":
        exit_code = int(value)
for output in outputs:
    with open(output, "w") as stream:
        stream.write("events\n")
with open("transform.json", "w") as stream:
    json.dump({"name": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], "environ": dict(os.environ)}, stream)
report = {
    "exitCode": exit_code, "exitAcronym": "OK" if exit_code == 0 else "TRF_FAIL",
    "exitMsg": "OK" if exit_code == 0 else "the transform was told to fail", "executor": [],
    "files": {"input": [], "output": [
        {"type": "HITS", "subFiles": [
            {"name": output, "nentries": 5, "file_guid": f"6A1B2C3D-0000-4000-8000-{number:012d}"}]}
        for number, output in enumerate(outputs)]},
    "resource": {"transform": {"processedEvents": 5}},
}
with open("jobReport.json", "w") as stream:
    json.dump(report, stream)
print("standin transform done")
sys.exit(exit_code)
