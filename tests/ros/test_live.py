"""The live view: a Foxglove client gets every topic with its schema, late ones the latched messages too."""

import base64
import json
import os
import socket
import struct

import pytest

pytest.importorskip("rclpy")

from efficientgen_ros.interfaces import TOPICS
from efficientgen_ros.live import INSTALL, Live, LiveViewError, require_sdk


def test_a_missing_sdk_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "foxglove", None)
    with pytest.raises(LiveViewError, match=INSTALL):
        require_sdk()


class Client:
    """As much of RFC 6455 and of Foxglove's protocol as a viewer needs."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: foxglove.sdk.v1\r\n\r\n".encode()
        )
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.socket.recv(65536)
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        assert b" 101 " in head.split(b"\r\n")[0]

    def _take(self, count: int) -> bytes:
        while len(self.data) < count:
            self.data += self.socket.recv(65536)
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """(opcode, payload); servers do not mask and ours do not fragment."""
        first, length = self._take(2)
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        return first & 15, self._take(length)

    def said(self, op: str) -> dict:
        while True:
            opcode, payload = self.frame()
            if opcode == 1 and (held := json.loads(payload))["op"] == op:
                return held

    def send(self, message: dict) -> None:
        payload = json.dumps(message).encode()
        assert len(payload) < 126
        self.socket.sendall(bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)


def test_viewers_get_all_topics_and_a_late_one_the_route():
    pytest.importorskip("foxglove")
    from efficientgen_ros.bag import channels

    keys = ("route", "odometry", "scaffold")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    live = Live(port, channels(TOPICS[key] for key in keys))
    try:
        live.write(TOPICS["route"].name, b"the route", 0)  # before anybody looks
        client = Client(port)
        channel = {c["topic"]: c for c in client.said("advertise")["channels"]}
        assert set(channel) == {*(TOPICS[key].name for key in keys), "/tf", "/tf_static"}
        route = channel[TOPICS["route"].name]
        assert (route["schemaName"], route["encoding"]) == ("nav_msgs/msg/Path", "cdr")
        assert "geometry_msgs/PoseStamped" in route["schema"] or "PoseStamped[] poses" in route["schema"]
        client.send({"op": "subscribe", "subscriptions": [{"id": 7, "channelId": route["id"]}]})
        opcode, stamp = 0, 0
        while opcode != 2:
            stamp += 2_000_000_000
            live.write(TOPICS["odometry"].name, b"a pose", stamp)
            client.socket.settimeout(0.3)
            try:
                opcode, payload = client.frame()
            except TimeoutError:
                assert stamp < 60_000_000_000, "nothing came"
        kind, subscription, at = struct.unpack("<BIQ", payload[:13])
        assert (kind, subscription, payload[13:]) == (1, 7, b"the route") and at % 2_000_000_000 == 0
        with pytest.raises(LiveViewError, match="--port"):
            Live(port, channels([]))
    finally:
        live.close()
