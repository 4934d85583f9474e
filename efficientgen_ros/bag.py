"""An MCAP bag of a drive, written from raw CDR bytes: readable by `ros2 bag`, Foxglove and `rosbags` without ROS.

Log times are the drive's own time, so a bag of a sync drive plays back at driving speed however fast it was computed.
Viewers place things by `/tf` and `/tf_static`.  `tf2_msgs` is in no pip installation of ROS 2, so the recorder writes
those messages into the bag (`transforms.py`); no node needs them.
"""

from __future__ import annotations

import os
from pathlib import Path

from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from efficientgen_ros.transforms import TF, TF_STATIC, TF_TYPE

_LATCHED = "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n"  # so that `ros2 bag play` latches it too


class Bag:
    """One MCAP file being written; `close` gives it its final name.

    Args:
        path: where the bag goes; until closed it is beside it with a leading dot.
        topics: (name, type) of every topic that may come.
    """

    def __init__(self, path: Path, topics: list[tuple[str, str]]) -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("wb")
        self._writer = Writer(self._file, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="efficientgen")
        store = get_typestore(Stores.ROS2_KILTED)
        schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        for name, kind in (*topics, (TF, TF_TYPE), (TF_STATIC, TF_TYPE)):
            if kind not in schemas:
                definition, _ = store.generate_msgdef(kind, ros_version=2)
                schemas[kind] = self._writer.register_schema(kind, "ros2msg", definition.encode())
            self._channels[name] = self._writer.register_channel(
                name, "cdr", schemas[kind], {"offered_qos_profiles": _LATCHED if name == TF_STATIC else ""}
            )

    def write(self, topic: str, cdr: bytes, stamp_ns: int) -> None:
        """Append one serialised message."""
        count = self._counts[topic] = self._counts.get(topic, 0) + 1
        self._writer.add_message(self._channels[topic], stamp_ns, cdr, stamp_ns, count)

    def close(self) -> None:
        """Finish the file and put it in place."""
        self._writer.finish()
        self._file.close()
        os.replace(self._draft, self.path)
