"""Broken and hostile definitions end in a job with a clear diagnosis, or in a refusal; never in a traceback."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from jobdef_examples import EXAMPLES, as_form, example

from pilot.common.exception import PilotException
from pilot.info.encoding import BadValue, decode_job_text, parse_literal, to_dict, to_list
from pilot.info.job import Job
from pilot.info.jobfilespecs import parse_checksum
from pilot.info.jobparser import JobRefused, parse_job

LONG = "x" * 256


def short(value: object) -> str | None:
    """Name of a test parameter; the default would print a million characters."""
    if isinstance(value, str):
        return ascii(value[:20])
    return "huge" if isinstance(value, int) and value > 10**20 else None


def defects(**changes) -> list:
    return parse_job(example("production", **changes)).defects


@pytest.mark.parametrize(
    "value",
    [
        ...,
        None,
        "NULL",
        "",
        0,
        "0",
        -1,
        "-1",
        1.0,
        1.5,
        True,
        "abc",
        "12a",
        " 12",
        "1\n",
        "1/../2",
        "１２",
        [1],
        {"a": 1},
        10**18,
        "1" * 19,
        10**5000,
        float("nan"),
        "../../etc",
    ],
    ids=short,
)
def test_definition_without_usable_pandaid_is_refused(value):
    with pytest.raises(JobRefused) as caught:
        parse_job(example("production", PandaID=value))
    assert caught.value.code == 1302
    assert "PandaID" in caught.value.detail and len(caught.value.detail) < 200


@pytest.mark.parametrize("raw", [None, [], "text", 5])
def test_what_is_no_object_is_refused(raw):
    with pytest.raises(JobRefused):
        parse_job(raw)


def test_contradicting_ids_are_refused():
    with pytest.raises(JobRefused, match="contradict"):
        parse_job(example("production", jobid="1"))


def test_leading_zeros_do_not_make_another_job():
    assert parse_job(example("production", PandaID="0007")).jobid == "7"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("/etc/passwd", 1371),
        ("..", 1371),
        (".", 1371),
        ("../x", 1371),
        ("a/b", 1371),
        ("a\x00b", 1371),
        ("a\nb", 1371),
        ("a\rb", 1371),
        ("a\x1bb", 1371),
        ("a\u2028b", 1371),
        ("-rf", 1371),
        ("a\udce9b", 1371),
        ("zip://../x", 1371),
        ("zip://", 1371),
        ("gs://bucket/..", 1371),
        ("gs://b\n/x", 1371),
    ],
)
@pytest.mark.parametrize("field", ["inFiles", "outFiles"])
def test_unsafe_file_name_is_a_defect_and_reaches_no_file_spec(field, name, code):
    raw = example("production")
    raw[field] = f"{name},{raw[field].split(',')[1]}"
    job = parse_job(raw)
    assert [found for found, _ in job.defects] == [code]
    assert len(job.indata) + len(job.outdata) + len(job.logdata) == 3
    assert job.defects[0][1].isprintable()


def test_unsafe_log_name_is_a_defect_and_leaves_no_log():
    raw = example("production", logFile="../log", outFiles="AOD.41000002._000055.pool.root.1,../log")
    job = parse_job(raw)
    assert [code for code, _ in job.defects] == [1371] and job.logdata == []
    assert [code for code, _ in defects(logFile="../log", scopeOut="a,b")] == [1371]


def test_unsafe_log_name_of_the_environment_is_a_defect():
    job = parse_job(example("production"), environ={"PILOT_LOGFILE": "/tmp/x"})
    assert [code for code, _ in job.defects] == [1371]


@pytest.mark.parametrize(("field", "code"), [("inFiles", 1371), ("outFiles", 1190)])
def test_name_of_more_than_255_characters_is_a_defect(field, code):
    assert [found for found, _ in defects(**{field: LONG + "," + example("production")[field].split(",")[1]})] == [code]
    assert defects(**{field: LONG[1:] + "," + example("production")[field].split(",")[1]}) == []


def test_only_outputs_must_be_ascii():
    assert defects(inFiles="é,b") == []
    assert [code for code, _ in defects(inFiles="é" * 128 + ",b")] == [1371]
    assert [code for code, _ in defects(outFiles="é,log.41000002._000055.job.log.tgz.1")] == [1371]


def test_unusual_output_name_is_only_a_warning(caplog):
    assert defects(outFiles="a b$(c);,log.41000002._000055.job.log.tgz.1") == []
    assert "unusual file name" in caplog.text


@pytest.mark.parametrize(
    "field",
    [
        "realDatasetsIn",
        "GUID",
        "fsize",
        "checksum",
        "scopeIn",
        "ddmEndPointIn",
        "prodDBlockToken",
        "realDatasets",
        "ddmEndPointOut",
        "dispatchDBlockTokenForOut",
        "scopeOut",
    ],
)
def test_list_longer_than_its_files_is_a_contradiction(field):
    found = defects(**{field: "1,1,1"})
    assert any(code == 1302 and text.startswith(f"{field} has 3 elements") for code, text in found)
    assert defects(**{field: example("production")[field] + ",NULL,"}) == []


@pytest.mark.parametrize("field", ["GUID", "fsize", "checksum", "scopeIn", "ddmEndPointIn", "realDatasetsIn"])
def test_list_shorter_than_its_files_is_tolerated(field):
    first = example("production")[field].split(",")[0]
    assert defects(**{field: first}) == [] and defects(**{field: ""}) == [] and defects(**{field: ...}) == []


def test_missing_scope_of_an_output_is_a_defect():
    ((code, text),) = defects(scopeOut="")
    assert code == 1302
    assert "Failed to extract scopeOut parameter from Job structure sent by Panda, please check input format!" in text


@pytest.mark.parametrize("value", ["ad:xyz", "ad:123456789", "md5:abc", "zz zz", "md:" + "g" * 32, "ad:0x12"])
def test_checksum_that_is_not_hexadecimal_is_a_defect(value):
    ((code, text),) = defects(checksum=f"NULL,{value}")
    assert code == 1302 and "checksum of 'HITS.33000001._000102.pool.root.1'" in text and value in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ad:5d0a0974", {"adler32": "5d0a0974"}),
        ("AD:5D0A0974", {"adler32": "5d0a0974"}),
        ("ad:12", {"adler32": "00000012"}),
        ("12345678", {"adler32": "12345678"}),
        ("other:12345678", {"adler32": "12345678"}),
        ("NULL", {}),
        ("", {}),
        (None, {}),
        ("ad:", {}),
        ("ad:NULL", {}),
        ("md:" + "A" * 32, {"md5": "a" * 32}),
        ("md5:" + "1" * 32, {"md5": "1" * 32}),
        ("2" * 32, {"md5": "2" * 32}),
    ],
)
def test_checksum_forms(text, expected):
    assert parse_checksum(text) == expected


def test_short_md5_is_rejected():
    with pytest.raises(BadValue, match="md5 has 32"):
        parse_checksum("md5:ab")


@pytest.mark.parametrize(
    "field",
    ["attemptNr", "maxCpuCount", "maxWalltime", "minRamCount", "maxDiskCount", "coreCount", "taskID", "jobsetID"],
)
@pytest.mark.parametrize(
    "value", [-1, "-5", 10**19, "9" * 19, 1.5, float("inf"), float("nan"), True, [1], 10**5000], ids=short
)
def test_number_of_wrong_type_or_size_is_a_defect(field, value):
    ((code, text),) = defects(**{field: value})
    assert code == 1302 and text.startswith(f"{field} is ") and len(text) < 150


@pytest.mark.parametrize("value", ["many", "1e9", "0x10", "1.0"])
def test_number_that_is_a_word_is_a_defect(value):
    assert [code for code, _ in defects(maxWalltime=value)] == [1302]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", str(10**16)])
def test_bad_file_size_is_a_defect_that_names_the_file(value):
    ((code, text),) = defects(fsize=f"1,{value}")
    assert code == 1302 and text.startswith("fsize of 'HITS.33000001._000102.pool.root.1'")


@pytest.mark.parametrize(
    "field", ["transformation", "jobPars", "swRelease", "cmtConfig", "container_name", "prodUserID"]
)
@pytest.mark.parametrize("value", [{"a": 1}, ["a"], True])
def test_text_of_wrong_type_is_a_defect(field, value):
    assert any(code == 1302 and text.startswith(f"{field} is ") for code, text in defects(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scopeLog", "a\nb"),
        ("ddmEndPointOut", "a\x01"),
        ("realDatasets", "a\rb"),
        ("scopeOut", "a\x7fb"),
        ("scopeIn", "\x00"),
        ("GUID", "a;rm -rf"),
        ("logGUID", "$(x)"),
        ("transformation", "a\nb"),
        ("jobPars", "a\x00b"),
        ("homepackage", "\x1b[31m"),
        ("cmtConfig", "a\nb"),
        ("transferType", "\ud800"),
        ("jobPars", "\udce9"),
        ("container_name", "a\nb"),
        ("ddmEndPointIn", "\udcff"),
        ("preprocess", {"command": "a\x00"}),
        ("containerOptions", {"a": "\udcff"}),
        ("writeToFile", "no colon"),
        ("debug", "maybe"),
        ("eventService", []),
        ("preprocess", {"command": ["a"]}),
        ("secrets", "{broken"),
        ("pilotSecrets", "[1]"),
        ("secrets", 5),
        ("StatusCode", 20),
        ("altStageOut", True),
    ],
)
def test_value_that_does_not_fit_is_a_defect_that_names_the_field(field, value):
    found = defects(**{field: value})
    assert len(found) == 1 and found[0][0] == 1302
    assert ("scope" if field == "scopeOut" else field) in found[0][1]
    assert found[0][1].isprintable()


@pytest.mark.parametrize("name", ["../x:a", "/etc/cron.d/x:a", "-x:a", "a" * 251 + ":b"], ids=short)
def test_write_to_file_never_leaves_the_work_directory(name):
    job = parse_job(example("production", writeToFile=name))
    assert [code for code, _ in job.defects] == [1371] and job.writetofile == ""


def test_missing_transformation_is_a_defect():
    assert defects(transformation="NULL") == [(1302, "transformation is missing")]
    assert defects(transformation=..., noExecStrCnv="True") == []


def test_two_inputs_with_the_same_local_name_contradict():
    ((code, text),) = defects(inFiles="gs://a/x,gs://b/x")
    assert code == 1302 and "same name" in text


@pytest.mark.parametrize(
    "pattern", ["regex|(", "regex|", "regex|" + "a" * 1001, "regex|a\nb", "regex|[z-a]"], ids=short
)
def test_output_pattern_that_cannot_be_used_is_a_defect(pattern):
    ((code, text),) = defects(outFiles=f"{pattern},log.41000002._000055.job.log.tgz.1")
    assert code == 1302 and "regular expression" in text


def test_secrets_are_never_shown_in_a_diagnosis(caplog):
    caplog.set_level("DEBUG")
    job = parse_job(example("production", secrets='{"a": "swordfish"', pilotSecrets=["swordfish"]))
    assert len(job.defects) == 2
    assert "swordfish" not in repr(job.defects) + caplog.text + repr(job)


def test_secrets_of_any_form_become_json_text():
    for secrets in ('{"a": null, "b": true}', {"a": None, "b": True}, "{'a': None, 'b': True}"):
        assert json.loads(parse_job(example("production", secrets=secrets)).secrets) == {"a": None, "b": True}


def test_huge_values_are_limited():
    assert defects(jobPars="x" * 10_000_000) == []
    assert "absurdly long" in defects(jobPars="x" * 11_000_000)[0][1]
    assert "absurdly long" in defects(prodUserID="x" * 200_000)[0][1]
    assert any("limit 100000" in text for _, text in defects(inFiles=",".join(map(str, range(100_001)))))
    job = parse_job(example("production", inFiles=",".join(f"f{i}" for i in range(100_000))))
    assert len(job.indata) == 100_000 and job.defects == []


def test_defects_are_counted_after_twenty():
    found = defects(inFiles=",".join(f"../{i}" for i in range(1000)))
    assert len(found) == 21 and found[-1] == (1302, "980 more defects of the same definition")


def test_bytes_that_are_not_utf8_fail_only_the_job_that_has_them():
    form = as_form(example("production")).replace("Production+Manager", "Prod%E9ction")
    job = parse_job(decode_job_text(form.encode())[0])
    assert job.jobid == "7000000002"
    ((code, text),) = job.defects
    assert code == 1302 and text.startswith("prodUserID is not valid UTF-8")
    raw = json.dumps(example("production", prodUserID="Ren\u00e9"), ensure_ascii=False).encode("latin-1")
    job = parse_job(decode_job_text(raw)[0])
    assert "prodUserID" in job.defects[0][1] and job.produserid == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        b"\xff\xfe",
        "{",
        "{}",
        "[]",
        "[1]",
        "null",
        "hello",
        "a=b",
        "[" * 100_000,
        '{"a":' * 100_000,
        "=",
        "&&&",
        '{"PandaID": 1, "PandaID": 2}',
        "PandaID=1&PandaID=2",
        '{"jobs": 5}',
        "StatusCode=0&jobs=x",
        '{"x": {"PandaID": 1}}',
        '{"success": true, "data": {"success": true, "data": {}}}',
        '{"PandaID": 1} x',
        '{"PandaID": ' + "9" * 5000 + "}",
    ],
    ids=short,
)
def test_text_that_is_no_job_is_refused(text):
    with pytest.raises(JobRefused) as caught:
        for raw in decode_job_text(text, json_form=True):
            parse_job(raw)
    assert caught.value.detail.isprintable() and len(caught.value.detail) < 250


def test_several_jobs_are_found_in_every_envelope():
    one, two = example("echo"), example("production")
    for text in (
        json.dumps([one, two]),
        json.dumps({"StatusCode": 0, "jobs": [one, two]}),
        json.dumps({"success": True, "message": "", "data": {"StatusCode": 0, "jobs": [one, two]}}),
        json.dumps({str(job["PandaID"]): job for job in (one, two)}),
        "\ufeff" + json.dumps([one, two]),
    ):
        assert [parse_job(raw).jobid for raw in decode_job_text(text)] == ["7000000001", "7000000002"]


def test_harvester_key_must_agree_with_its_job():
    (raw,) = decode_job_text('{"5": {"PandaID": 6}}')
    with pytest.raises(JobRefused, match="contradict"):
        parse_job(raw)
    assert parse_job(decode_job_text('{"5": {"transformation": "x"}}')[0]).jobid == "5"


@pytest.mark.parametrize(
    "text",
    [
        "{" * 60 + "}" * 60,
        "{1:" * 60 + "1" + "}" * 60,
        "+".join(["1"] * 100_000),
        "-" * 100_000 + "1",
        "not " * 100_000 + "1",
        "a" + ".b" * 100_000,
        "{'a': " + "-" * 50_000 + "1}",
        "9" * 100_000,
        "{'a': open('/etc/passwd')}",
        "'" + "x" * (1 << 21) + "'",
        "{'a': 'b'",
        "{'a': b'x'}",
        "{]",
        "'a' 'b' @",
        "{'a': 1 2}",
    ],
    ids=short,
)
def test_literal_that_is_no_plain_literal_is_none(text):
    assert parse_literal(text) is None


def test_literals_of_json_and_python():
    assert parse_literal("""{'a': [1, -2.5e3, None, True], "b": ('x', "it\\"s")}""") == {
        "a": [1, -2500.0, None, True],
        "b": ("x", 'it"s'),
    }
    assert parse_literal('{"a": null}') == {"a": None}
    assert to_dict("{'a': {'b': 1}}") == {"a": {"b": 1}}
    with pytest.raises(BadValue, match="key"):
        to_dict("{1: 2}")


def test_lists_come_as_text_as_json_and_as_repr():
    assert (
        to_list("a,NULL,,b")
        == to_list(["a", None, "", "b"])
        == to_list("['a', None, '', 'b']")
        == ["a", None, None, "b"]
    )
    assert to_list(7) == ["7"] and to_list("NULL") == [None]


# --- fuzzing ----------------------------------------------------------------------------------------------------------

NASTY = [
    None,
    "",
    "NULL",
    "None",
    0,
    -1,
    1.5,
    True,
    False,
    [],
    {},
    [None],
    ["a", {}],
    {"a": []},
    "\x00",
    "\udce9",
    "../..",
    "/",
    "a" * 300,
    ",",
    ",,,,,,",
    "a,b,c,d,e",
    "regex|(",
    "zip://",
    "gs://",
    "{'a':",
    "[[[",
    "'",
    '"',
    "\\",
    10**30,
    float("nan"),
    "--overwriteQueueData {",
    "<ZIP_MAP>",
    "ad:",
    "md5:zz",
    "é",
    "%00",
    "\r\n",
    (1, 2),
    "1" * 400,
    '{"a": 1}',
    "^:^",
    "a:b^c",
    ["x"] * 50,
    [["a"]],
    "--containerImage",
    b"bytes",
    "['a', ['b']]",
    "[1,2]",
    "{1,2}",
    "\u2028",
    "True",
    "false",
]


def mutate(raw: dict, generator: random.Random) -> dict:
    raw = copy.deepcopy(raw)
    for _ in range(generator.randrange(1, 6)):
        field = generator.choice(list(raw))
        action = generator.randrange(4)
        if action == 0:
            raw[field] = generator.choice(NASTY)
        elif action == 1 and len(raw) > 1:
            del raw[field]
        elif action == 2:
            raw[field] = raw[generator.choice(list(raw))]
        elif isinstance(raw[field], str):
            text = raw[field]
            position = generator.randrange(len(text) + 1)
            piece = generator.choice([str(item) for item in NASTY[:40]])
            raw[field] = text[:position] + piece + text[position + generator.randrange(3) :]
    return raw


def check(job: Job) -> None:
    assert job.jobid.isdigit() and len(job.jobid) <= 18
    assert all(code in (1302, 1371, 1190) and text.isprintable() for code, text in job.defects)
    assert len(job.logdata) <= 1
    for spec in [*job.indata, *job.outdata, *job.logdata]:
        assert spec.pattern or ("/" not in spec.lfn and "\n" not in spec.lfn and spec.lfn not in ("", ".", ".."))
        assert isinstance(spec.filesize, int) and 0 <= spec.filesize <= 10**15
        assert all(isinstance(value, str) for value in (spec.scope, spec.dataset, spec.ddmendpoint, spec.guid))
    for text in (job.jobparams, job.transformation, job.platform, job.imagename, job.secrets, job.writetofile):
        text.encode("utf-8")
    assert job.corecount >= 1


def test_mutated_definition_gives_a_job_or_a_refusal():
    generator = random.Random(20261121)
    jobs = refused = broken = 0
    for number in range(4000):
        raw = mutate(example(EXAMPLES[number % len(EXAMPLES)]), generator)
        try:
            job = parse_job(raw, compat_requote=number % 2 == 0)
        except JobRefused:
            refused += 1
            continue
        check(job)
        jobs += 1
        broken += bool(job.defects)
    assert jobs > 3000 and broken > 1500 and refused > 20


def test_mutated_text_gives_jobs_or_a_refusal():
    generator = random.Random(42)
    texts = [json.dumps(example(name)).encode() for name in EXAMPLES] + [
        as_form(example(name)).encode() for name in EXAMPLES
    ]
    outcomes = {"job": 0, "refused": 0}
    for number in range(4000):
        data = bytearray(texts[number % len(texts)])
        for _ in range(generator.randrange(1, 8)):
            position = generator.randrange(len(data))
            action = generator.randrange(3)
            if action == 0:
                data[position] = generator.randrange(256)
            elif action == 1:
                del data[position : position + generator.randrange(20)]
            else:
                data[position:position] = generator.choice([b'"', b"{", b"&", b"%", b"\xff", b"\x00", b"=", b","])
        try:
            for raw in decode_job_text(bytes(data), json_form=number % 2 == 0):
                check(parse_job(raw))
                outcomes["job"] += 1
        except PilotException as exc:
            assert exc.code == 1302 and exc.detail.isprintable()
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 300
