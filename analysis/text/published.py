"""Where results/published of this checkout is: what was measured and predicted, and committed."""

from __future__ import annotations

import os
from pathlib import Path

from lomo.record.made import PUBLISHED as FOLDER


def link_from(folder: Path) -> str:
    """The way there from a page in `folder`, as a link has it."""
    return Path(os.path.relpath(FOLDER, folder)).as_posix()
