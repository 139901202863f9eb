"""Deferred imports: the stand-in costs nothing, and is as good as the module as soon as that is wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFER = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pilot.util.deferred import defer_import\n"


def python(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", DEFER + code], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def test_requests_takes_the_stand_in_without_a_warning_and_without_loading_the_module() -> None:
    assert python("defer_import('charset_normalizer', '3.0.0')\nimport requests\n"
                  "print('charset_normalizer.api' in sys.modules)", "-W", "error") == "False"


def test_requests_still_guesses_encodings() -> None:
    text = python("defer_import('charset_normalizer', '3.0.0')\nimport requests\nanswer = requests.Response()\n"
                  "answer._content = 'Ein längerer Text, über Äpfel und Öl.'.encode('utf-8') * 5\n"
                  "print(answer.apparent_encoding)")
    assert text.lower().replace("_", "-") in ("utf-8", "utf8")


def test_submodules_and_names_of_a_deferred_package_are_the_real_ones() -> None:
    assert python("defer_import('charset_normalizer', '0')\nimport charset_normalizer.api\n"
                  "from charset_normalizer import from_bytes\nimport charset_normalizer as package\n"
                  "print(package.__version__ != '0', package.from_bytes is from_bytes is package.api.from_bytes)"
                  ) == "True True"


def test_a_stand_in_that_somebody_holds_becomes_the_module() -> None:
    assert python("defer_import('json', '0')\nimport json as held\nheld.dumps\nimport json\n"
                  "print(held.dumps is json.dumps, sys.modules['json'] is not held)") == "True True"


def test_a_loaded_or_absent_module_is_left_alone() -> None:
    assert python("import json\ndefer_import('json', '0')\ndefer_import('no_such_module', '1')\n"
                  "print(sys.modules['json'] is json, 'no_such_module' in sys.modules)") == "True False"


def test_a_function_of_a_deferred_submodule_loads_it_at_the_first_call() -> None:
    assert python("defer_import('importlib.metadata', functions=('version',))\nimport urllib3\n"
                  "before = 'email.parser' in sys.modules and 'csv' in sys.modules\n"
                  "from importlib.metadata import version, PackageNotFoundError\nimport importlib.metadata\n"
                  "print(before, version('requests') == importlib.metadata.version('requests'),\n"
                  "      issubclass(PackageNotFoundError, ImportError))") == "False True True"
