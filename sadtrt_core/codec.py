"""Strict conversion between frozen dataclasses and plain JSON values, driven by the type hints alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sadtrt_core.errors import UserError, printable, shown

Value = TypeVar("Value")
Self = TypeVar("Self", bound="JsonValue")


class JsonValue:
    """Adds strict JSON conversion to a frozen dataclass."""

    def to_json(self) -> Any:
        """Plain JSON value of this dataclass; UserError for a NaN or infinity."""
        return to_json(self, type(self).__name__)

    @classmethod
    def from_json(cls: type[Self], data: Any) -> Self:
        """The value from parsed JSON; UserError names the first field that is unknown, absent or of a wrong type."""
        return from_json(cls, data)


#: What tables and charts can still compute with, as 64 bits can.
_INT_LIMIT = 1 << 63
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@cache
def _fields_of(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _with_defaults(cls: type) -> frozenset[str]:
    """Names of the fields that need not be given."""
    missing = dataclasses.MISSING
    given = (f for f in dataclasses.fields(cls) if f.default is not missing or f.default_factory is not missing)
    return frozenset(field.name for field in given)


def to_json(value: Any, where: str = "value") -> Any:
    """Plain JSON value (dict, list, str, int, float, bool, None) of a dataclass tree.

    Raises UserError for a NaN or infinity (JSON has neither) and for a type that JSON has not.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where} is {value}, which JSON cannot hold: record None and the flag that says why")
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_json(getattr(value, name), f"{where}.{name}") for name in _fields_of(type(value))}
    if isinstance(value, (tuple, list)):
        return [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): to_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise UserError(f"{where} is a {type(value).__name__}, which a record cannot hold: convert it to a plain number")


def from_json(cls: type[Value], data: Any, where: str | None = None) -> Value:
    """The dataclass `cls` from a plain JSON value, every field present, none unknown, each of its declared type.

    Raises UserError naming the field, what was expected and what was found.
    """
    result: Value = _decode(cls, data, where or cls.__name__)
    return result


def _decode(hint: Any, data: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in get_args(hint):
            return None
        options = [option for option in get_args(hint) if option is not type(None)]
        if len(options) > 1 and type(data) not in options:
            raise _mismatch(where, " or ".join(_WORDS[option] for option in options), data)
        return _decode(type(data) if len(options) > 1 else options[0], data, where)
    if origin is Literal:
        if data not in get_args(hint) or not isinstance(data, str):
            raise _mismatch(where, "one of " + ", ".join(map(repr, get_args(hint))), data)
        return data
    if origin is tuple:
        return _decode_tuple(get_args(hint), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _mismatch(where, "an object", data)
        text, kind = get_args(hint)
        return {
            _decode(text, key, f"the name of {where}[{shown(key)}]"): _decode(kind, item, f"{where}[{shown(key)}]")
            for key, item in data.items()
        }
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, data, where)
    return _decode_scalar(hint, data, where)


def _decode_tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _mismatch(where, "a list", data)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        hints: tuple[Any, ...] = (arguments[0],) * len(data)
    elif len(arguments) == len(data):
        hints = arguments
    else:
        raise UserError(f"{where} should have {len(arguments)} values but has {len(data)}")
    return tuple(
        _decode(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(zip(hints, data, strict=True))
    )


def _decode_dataclass(hint: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _mismatch(where, "an object", data)
    fields = _fields_of(hint)
    if unknown := sorted(set(data) - set(fields)):
        raise UserError(f"{where} has the unknown field {shown(unknown[0])}")
    # A field that came later has a default, which is what older records mean by not having it.
    if absent := sorted(set(fields) - set(data) - _with_defaults(hint)):
        raise UserError(f"{where} lacks the field {absent[0]!r}")
    decoded = {name: _decode(field, data[name], f"{where}.{name}") for name, field in fields.items() if name in data}
    try:
        return hint(**decoded)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where} is not valid: {error}") from error


def _decode_scalar(hint: Any, data: Any, where: str) -> Any:
    if hint is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise UserError(f"{where} is not a finite number")
        return number
    # bool is an int to isinstance, so the exact type is compared.
    if type(data) is not hint:
        raise _mismatch(where, _WORDS[hint], data)
    if hint is str and data != printable(data):
        raise UserError(f"{where} holds a character that is no text: {data[:60]!r}")
    if hint is int and abs(data) >= _INT_LIMIT:
        raise UserError(f"{where} is {shown(data)}, which no count comes to")
    return data


def _mismatch(where: str, expected: str, data: Any) -> UserError:
    return UserError(f"{where} should be {expected} but is {shown(data)}")


def json_digest(value: Any) -> str:
    """SHA-256 in hexadecimal of a plain JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, which would take the last of several fields of one name. Raises ValueError."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object names a field twice")
    return result
