"""An MCAP bag of a drive, written from raw CDR bytes: readable by `ros2 bag`, Foxglove and `rosbags` without ROS.

Log times are the drive's own time, so a bag of a sync drive plays back at driving speed however fast it was computed.
Viewers place things by `/tf` and `/tf_static`.  `tf2_msgs` is in no pip installation of ROS 2, so the recorder writes
those messages into the bag (`transforms.py`); no node needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from efficientgen_ros.interfaces import Topic
from efficientgen_ros.transforms import TF, TF_STATIC, TF_TYPE

_LATCHED = "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n"  # so that `ros2 bag play` latches it too


@dataclass(frozen=True)
class Channel:
    """A topic as recordings describe it: `definition` is the text of its type and of all types within."""

    name: str
    type: str
    definition: str
    latched: bool = False


def channels(topics: Iterable[Topic]) -> list[Channel]:
    """The channels of `topics`, and those of the transforms."""
    store = get_typestore(Stores.ROS2_KILTED)
    named = [(topic.name, topic.type, topic.latched) for topic in topics]
    named += [(TF, TF_TYPE, False), (TF_STATIC, TF_TYPE, True)]
    return [Channel(name, kind, store.generate_msgdef(kind, ros_version=2)[0], held) for name, kind, held in named]


class Bag:
    """One MCAP file being written; `close` gives it its final name.

    Args:
        path: where the bag goes; until closed it is beside it with a leading dot.
        channels: every topic that may come.
    """

    def __init__(self, path: Path, channels: list[Channel]) -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("wb")
        self._writer = Writer(self._file, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="efficientgen")
        schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        for channel in channels:
            if channel.type not in schemas:
                definition = channel.definition.encode()
                schemas[channel.type] = self._writer.register_schema(channel.type, "ros2msg", definition)
            quality = {"offered_qos_profiles": _LATCHED if channel.latched else ""}
            self._channels[channel.name] = self._writer.register_channel(
                channel.name, "cdr", schemas[channel.type], quality
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
