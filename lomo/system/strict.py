"""Files that people write: YAML read and checked against a type, or refused with one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lomo.errors import UserError
from lomo.system.mistakes import check_size, explained


class Strict(BaseModel):
    """Unknown keys and silent conversions are errors, and so are nan and inf."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Spec = TypeVar("Spec", bound=Strict)


def read_yaml(path: Path, *, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where it is missing, broken or no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - all safe
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"is not YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}:{mark.line + 1}" if mark else str(path),
        ) from error
    if not isinstance(data, dict):
        raise UserError(
            "holds no mapping of keys to values",
            where=str(path),
            allowed="lines such as `study: my-study`",
        )
    return data


def parse(model: type[Spec], data: Any, *, where: str) -> Spec:
    """`data` as a `model`. Raises UserError that names the key in `where` and how to mend it."""
    check_size(data, where)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explained(model, data, error, where) from error
