"""ROS messages as CDR bytes, the same bytes every time.

`rclpy.serialization` leaves whatever lay in memory in its padding and may append some, which strict readers
(`rosbags`) refuse in recordings; and two exports of one drive should be one file.  So the fields are handed to
`rosbags`, which knows the definitions and writes padding as zeros.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

_NUMBERS: dict[str, Any] = {
    "boolean": np.bool_, "octet": np.uint8, "byte": np.uint8, "char": np.uint8, "float": np.float32,
    "double": np.float64, **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u")
                             for bits in (8, 16, 32, 64)},
}  # fmt: skip


def cdr_bytes(message: Any) -> bytes:
    """A message of any type that ROS 2 Kilted ships, little endian."""
    kind = type(message)
    name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
    return bytes(_store().serialize_cdr(_converted(message, name), name))


def _converted(value: Any, kind: str) -> Any:
    """A field's value as `rosbags` wants it; `kind` is its type in the words of `get_fields_and_field_types`."""
    if kind.startswith("sequence<"):
        return _list(value, kind[len("sequence<") : -1].split(",")[0])
    if kind.endswith("]"):
        return _list(value, kind[: kind.index("[")])
    if "/" not in kind:
        return value
    package, _, name = kind.replace("/msg/", "/").partition("/")
    fields = {field: _converted(getattr(value, field), of) for field, of in value.get_fields_and_field_types().items()}
    return _store().types[f"{package}/msg/{name}"](**fields)


def _list(values: Any, kind: str) -> Any:
    if kind in _NUMBERS:
        dtype = _NUMBERS[kind]
        return np.frombuffer(values, dtype) if isinstance(values, bytes) else np.array(values, dtype)
    return [_converted(value, kind) for value in values]


@cache
def _store() -> Any:
    return get_typestore(Stores.ROS2_KILTED)
