"""Files that people write: YAML read and checked against a type, or refused with one message.

What pydantic says of a mistake is told to the person: key, what is allowed, what to do.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lomo.errors import UserError, nearest


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


MOST_VALUES = 100_000
MOST_LEVELS = 50
MOST_SHOWN = 200

_NUMBER_AS_TEXT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


def explained(model: type[BaseModel], data: Any, error: ValidationError, where: str) -> UserError:
    """The first error of `data` as a `model`, with its place in `where`."""
    # An unknown key often causes a missing one beside it: speak of the cause.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key = _path(data, first["loc"], first["type"] == "missing")
    # `where` may itself end in a key of the file.
    place = f"{where}{'.' if ': ' in where else ': '}{key}" if key else where
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, first["loc"][:-1])
        close = nearest(str(first["loc"][-1]), known)
        return UserError(
            "unknown key",
            where=place,
            allowed=", ".join(sorted(known)),
            fix=f"did you mean {close!r}?" if close else "remove it",
        )
    if isinstance(value, str) and _NUMBER_AS_TEXT.match(value):
        return UserError(
            f"{value!r} is text, not a number: YAML reads {value} as text",
            where=place,
            allowed="a number",
            fix=f"write {float(value)!r}" if "e" not in repr(float(value)) else _dotted(value),
        )
    if first["type"] == "string_type" and isinstance(value, bool | int | float | date):
        kind = "a date" if isinstance(value, date) else "true or false"
        kind = (
            "a number" if isinstance(value, int | float) and not isinstance(value, bool) else kind
        )
        return UserError(
            f"YAML reads what is written there as {kind} ({value})",
            where=place,
            allowed="text",
            fix='put it in quotes, as it is meant: "007", "no", "2024-11-25"',
        )
    if first["type"] == "missing":
        return UserError("is missing", where=place, fix=_description(model, first["loc"]))
    if first["type"] == "literal_error":
        return _not_among(re.findall(r"'([^']*)'", first["ctx"]["expected"]), value, place)
    if first["type"] == "string_pattern_mismatch":
        return UserError(
            f"{_shown(value)} will not do", where=place, allowed=_description(model, first["loc"])
        )
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f" (it is {_shown(value)})"
    single = first["type"] == "list_type" and isinstance(value, str | int | float)
    return UserError(message + got, where=place, fix=f"write [{value}]" if single else None)


def check_size(data: Any, where: str) -> None:
    """Raises UserError for a file whose aliases, written out, are more than anybody wrote by hand.

    A few lines of YAML can stand for billions of values; each is counted once and multiplied.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, key: str, depth: int) -> int:
        if not isinstance(value, dict | list):
            return 1
        if depth > MOST_LEVELS:
            raise UserError(
                "is nested without end, or nearly", where=key, allowed=f"{MOST_LEVELS} levels"
            )
        if id(value) not in sizes:
            sizes[id(value)] = 1 + sum(size(part, key, depth + 1) for part in _parts(value))
        return sizes[id(value)]

    for name, value in data.items() if isinstance(data, dict) else [("", data)]:
        key = f"{where}: {name}" if name else where
        if (found := size(value, key, 0)) > MOST_VALUES:
            raise UserError(
                f"stands for {found:.3g} values, by aliases of aliases",
                where=key,
                allowed=f"{MOST_VALUES:,} values",
                fix="write out what is meant",
            )


def _parts(value: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _not_among(options: list[str], value: Any, place: str) -> UserError:
    close = nearest(value, options) if isinstance(value, str) else None
    fix = f"did you mean {close!r}?" if close else None
    if isinstance(value, bool) and {"on", "off"} & set(options):
        word = "on" if value else "off"
        fix = f'write "{word}" in quotes: YAML reads the bare word as {value}'
    what = f"{_shown(value)} is not one of its values"
    return UserError(what, where=place, allowed=", ".join(options), fix=fix)


def _path(data: Any, location: tuple[int | str, ...], missing: bool) -> str:
    """The place in the file, without the names that pydantic gives to the members of a union."""
    parts = []
    for number, part in enumerate(location, start=1):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif not (missing and number == len(location)):
            continue
        parts.append(str(part))
    return ".".join(parts)


def _dotted(number: str) -> str:
    mantissa, exponent = re.split("[eE]", number)
    sign = exponent if exponent[0] in "+-" else "+" + exponent
    return f"write {mantissa if '.' in mantissa else mantissa + '.0'}e{sign}"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys allowed at a place inside a model."""
    found = _model_at(model, location)
    return set(found.model_fields) if found else set()


def _description(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    """What a field of a model is, in words."""
    found = _model_at(model, location[:-1])
    field = found.model_fields.get(str(location[-1])) if found else None
    return field.description if field else None


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    current: Any = model
    of_mapping = False
    for part in location:
        if of_mapping:  # the key of an entry, not of a model
            of_mapping = False
            continue
        if not (isinstance(part, str) and _is_model(current) and part in current.model_fields):
            return None
        options = [current.model_fields[part].annotation]
        of_mapping = getattr(options[0], "__origin__", None) is dict
        options += getattr(options[0], "__args__", ())
        current = next((option for option in options if _is_model(option)), None)
    return current if _is_model(current) else None


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
