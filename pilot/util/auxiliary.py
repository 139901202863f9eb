"""The two functions that Harvester imports to translate between pilot error codes and the pilot's exit codes.

Harvester calls them on its edge nodes: names, results and the freedom from third-party packages, configuration and
logging are its contract (cli-config 7.2, error-codes 2.3).
"""

from __future__ import annotations

from pilot.common.errorcodes import error_code_translation_dictionary


def get_error_code_translation_dictionary() -> dict[int, list[object]]:
    """Return pilot error code -> [shell exit code, text]; the caller may change it."""
    return error_code_translation_dictionary()


def convert_to_pilot_error_code(exit_code: int) -> int:
    """Return the first pilot error code of the table that has this shell exit code, -1 when there is none.

    For several candidates the order of the table decides: 64 gives -1, 68 gives 1177. An unknown code is printed, never
    logged.
    """
    for code, (shell, _) in error_code_translation_dictionary().items():
        if shell == exit_code:
            return code
    print(f"shell exit code {exit_code} has no translation to a pilot error code")
    return -1
