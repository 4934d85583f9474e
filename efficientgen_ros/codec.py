"""Dataclasses of `perception.types` as JSON and back, exactly: what standard messages cannot carry.

Every payload is an object with `schema` (the dataclass or payload name), `version` and `data`.  Floats are written by
`repr`, so each float64 comes back bit for bit; arrays keep their shape.  Decoding follows the type annotations.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

import numpy as np

VERSION = 1


class PayloadError(ValueError):
    """A JSON payload is not what the topic carries; the message says what was expected and what came."""


def dump(value: Any, schema: str | None = None) -> str:
    """`value` (a dataclass, or a mapping of JSON-like values and dataclasses) as a versioned JSON string."""
    return json.dumps({"schema": schema or type(value).__name__, "version": VERSION, "data": pack(value)})


def load(text: str, kind: Any, schema: str | None = None) -> Any:
    """The value of type `kind` that `dump` wrote.

    Raises:
        PayloadError: not JSON, another schema, another version, or a missing field.
    """
    wanted = schema or kind.__name__
    try:
        payload = json.loads(text)
        found, version, data = payload["schema"], payload["version"], payload["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise PayloadError(f"expected a JSON payload '{wanted}' with schema, version and data: {error}") from error
    if (found, version) != (wanted, VERSION):
        raise PayloadError(
            f"expected payload '{wanted}' version {VERSION}, got '{found}' version {version}; "
            "run all nodes from one efficientgen release"
        )
    try:
        return unpack(kind, data)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PayloadError(f"payload '{wanted}' does not decode: {type(error).__name__}: {error}") from error


def data_in(text: str) -> dict[str, Any]:
    """The undecoded data of a payload, whatever its schema."""
    return json.loads(text)["data"]  # type: ignore[no-any-return]


def pack(value: Any) -> Any:
    """`value` in terms of JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: pack(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "dtype": value.dtype.name, "values": value.ravel().tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    return value


def unpack(kind: Any, data: Any) -> Any:
    """The value of annotated type `kind` from what `pack` made of it."""
    if kind is Any:
        return data
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if data is None else unpack(inner, data)
    if origin is np.ndarray:
        return np.array(data["values"], dtype=data["dtype"]).reshape(data["shape"])
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(unpack(arguments[0], item) for item in data)
        return tuple(unpack(a, item) for a, item in zip(arguments, data, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: unpack(arguments[1], item) for key, item in data.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{field.name: unpack(hints[field.name], data[field.name]) for field in dataclasses.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if kind is float and not isinstance(data, (int, float)) or kind is str and not isinstance(data, str):
        raise TypeError(f"{data!r} is not a {kind.__name__}")
    return data


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
