"""The vehicle: follows safety's verdict with the tracker and the bicycle model, and tells everyone where it went.

It wakes up where the oracle put it at stamp 0.  For each verdict it publishes one ego state per 0.1 s tick of the
coming chunk; those states are also what the world steps with.
"""

from __future__ import annotations

from collections import deque

from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory

from efficientgen.eval.runner import follow
from efficientgen.perception.types import EgoState, OracleFrame
from efficientgen_ros import codec
from efficientgen_ros.messages import Ruling, ego_messages, verdict_from
from efficientgen_ros.parameters import declare
from efficientgen_ros.session import Session, Wiring, participants, run


class VehicleNode(Node):
    """Reads safety's trajectory and verdict, publishes ego states."""

    def __init__(self) -> None:
        super().__init__("vehicle")
        planner = str(declare(self, "vehicle")["planner"])
        self._session: Session | None = None
        self._ego: EgoState | None = None
        self._trajectories: deque[MultiDOFJointTrajectory] = deque()
        self._rulings: deque[Ruling] = deque()
        self._wiring = Wiring(self, "vehicle", participants(planner))
        self._outputs = [self._wiring.publisher(key) for key in ("odometry", "acceleration", "steering")]
        self._wiring.subscribe("session", self._on_session)
        self._wiring.subscribe("oracle", self._on_oracle)
        self._wiring.subscribe("trajectory", self._on_trajectory)
        self._wiring.subscribe("verdict", self._on_verdict)
        self._wiring.announce_when_matched()

    def _on_session(self, message: String) -> None:
        self._session = codec.load(message.data, Session)
        self._follow()

    def _on_oracle(self, message: String) -> None:
        if self._ego is None:  # stamp 0: where the drive begins
            self._ego = codec.load(message.data, OracleFrame).ego
            self._publish(self._ego)

    def _on_trajectory(self, message: MultiDOFJointTrajectory) -> None:
        self._trajectories.append(message)
        self._follow()

    def _on_verdict(self, message: String) -> None:
        self._rulings.append(codec.load(message.data, Ruling))
        self._follow()

    def _follow(self) -> None:
        """Drive one chunk for each complete verdict; trajectories and verdicts come in pairs and in order."""
        while self._session and self._ego and self._trajectories and self._rulings:
            verdict = verdict_from(self._trajectories.popleft(), self._rulings.popleft())
            for state in follow(verdict, self._ego, self._session.chunk_ns):
                self._publish(state)
                self._ego = state

    def _publish(self, ego: EgoState) -> None:
        for publisher, message in zip(self._outputs, ego_messages(ego), strict=True):
            publisher.publish(message)


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.vehicle_node`."""
    run(VehicleNode, args)


if __name__ == "__main__":
    main()
