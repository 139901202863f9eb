"""Packaging shim: the metadata is in pyproject.toml; here only the version that an installed pilot reads."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithVersion(build_py):
    """Puts PILOTVERSION, which stands beside pilot.py in a checkout, into the package."""

    def run(self):
        """Build as usual, then add the file to the build directory (never to the source tree)."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "pilot", "PILOTVERSION")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Path(__file__).with_name("PILOTVERSION").read_text(encoding="ascii"), encoding="ascii")


setup(cmdclass={"build_py": BuildWithVersion})
