"""A live view of a drive for Foxglove, served by the recorder over a WebSocket from the bytes that it records.

Optional: it needs the `foxglove-sdk` package, and a drive never waits for a viewer.  Who connects late has missed what
was said once (route, session, camera mounts), so latched topics are repeated every second of drive time.
"""

from __future__ import annotations

from typing import Any

from efficientgen_ros.bag import Channel
from efficientgen_ros.parameters import ParameterError

REPEAT_NS = 1_000_000_000
INSTALL = "pip install foxglove-sdk"


class LiveViewError(ParameterError):
    """The live view cannot be served; the message says what is missing."""


def require_sdk() -> Any:
    """The Foxglove SDK module.

    Raises:
        LiveViewError: it is not installed.
    """
    try:
        import foxglove
    except ImportError as error:
        raise LiveViewError(f"the live view needs the Foxglove SDK: {INSTALL}") from error
    if not hasattr(foxglove, "start_server"):  # another package that is imported by the same name
        raise LiveViewError(f"the installed module 'foxglove' is not the Foxglove SDK: {INSTALL}")
    return foxglove


class Live:
    """A WebSocket server of one drive's topics; `write` and `close` are a `Bag`'s.

    Args:
        port: on this host; 0 takes a free one.
        channels: every topic that may come.

    Raises:
        LiveViewError: the SDK is missing, or the port is taken.
    """

    def __init__(self, port: int, channels: list[Channel]) -> None:
        foxglove = require_sdk()
        self._context = context = foxglove.Context()  # channels close with it
        self._channels = {
            channel.name: foxglove.Channel(
                channel.name,
                schema=foxglove.Schema(name=channel.type, encoding="ros2msg", data=channel.definition.encode()),
                message_encoding="cdr",
                context=context,
            )
            for channel in channels
        }
        self._latched = {channel.name for channel in channels if channel.latched}
        self._held: dict[str, bytes] = {}
        self._repeated_ns = 0
        try:
            self._server = foxglove.start_server(name="efficientgen", port=port, context=context)
        except RuntimeError as error:
            raise LiveViewError(f"cannot serve the live view on port {port}: {error}; choose another --port") from error
        self.port = int(self._server.port)

    def write(self, topic: str, cdr: bytes, stamp_ns: int) -> None:
        """Send one serialised message to whoever looks."""
        self._channels[topic].log(cdr, log_time=stamp_ns)
        if topic in self._latched:
            self._held[topic] = cdr
        if stamp_ns >= self._repeated_ns + REPEAT_NS:
            self._repeated_ns = stamp_ns
            for name, held in self._held.items():
                self._channels[name].log(held, log_time=stamp_ns)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()
