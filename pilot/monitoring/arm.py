"""Names of ARM processors: /proc/cpuinfo has numbers only. Source: MIDR_EL1 implementer and part numbers, as lscpu."""

from __future__ import annotations

_NAMES = {
    ("0x41", "0xd03"): "Cortex-A53", ("0x41", "0xd07"): "Cortex-A57", ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76", ("0x41", "0xd0c"): "Neoverse-N1", ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd49"): "Neoverse-N2", ("0x41", "0xd4f"): "Neoverse-V2", ("0x41", "0xd84"): "Neoverse-V3",
    ("0x41", "0xd8e"): "Neoverse-N3", ("0x43", "0x0af"): "ThunderX2", ("0x46", "0x001"): "A64FX",
    ("0x48", "0xd01"): "Kunpeng-920", ("0x4e", "0x004"): "Carmel", ("0x50", "0x000"): "X-Gene",
    ("0xc0", "0xac3"): "Ampere-1", ("0xc0", "0xac4"): "Ampere-1a",
}


def arm_model(implementer: str, part: str) -> str:
    """Return the name behind ``CPU implementer`` and ``CPU part``; '' when it is not known."""
    return _NAMES.get((implementer.lower(), part.lower()), "")
