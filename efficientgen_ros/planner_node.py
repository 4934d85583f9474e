"""The planner as a lifecycle node: configure loads the model and warms it up, activate listens and plans.

Callbacks only store (`intake`); one worker thread plans the newest complete observation, so nothing ever queues: in
real time a slow planner skips stamps.  A plan goes out at once as a trajectory, then its words, rollouts and cost.  A
planner that raises, an observation that is unfit to plan on or does not become complete: the node answers with an empty
trajectory and says why in words and diagnostics, so that safety need not wait for nothing.
"""

from __future__ import annotations

import threading
import traceback
from functools import partial
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from efficientgen.eval.runner import frames_needed
from efficientgen.perception.health import Expected, Finding, require_fit
from efficientgen.perception.types import Observation, Plan, Planner
from efficientgen.worldsim.worlds import cameras_of, require_cameras
from efficientgen_ros import codec, messages, viewers
from efficientgen_ros.intake import Intake, Lack
from efficientgen_ros.interfaces import BASE_LINK, CAMERAS
from efficientgen_ros.messages import text
from efficientgen_ros.parameters import declare
from efficientgen_ros.sabotage import TamperedPlans, load_faults, tampered_planner
from efficientgen_ros.session import CommandAt, Session, Wiring, participants, run
from efficientgen_ros.warm_up import empty_observation

MODEL = ("checkpoint", "decoder", "schema", "device", "dtype", "rollouts", "threads")
OUTPUTS = ("plan", "scaffold", "plan_path", "rollouts", "diagnostics")


class PlannerNode(LifecycleNode):
    """Reads pictures, ego states and commands; publishes plans."""

    def __init__(self) -> None:
        super().__init__("planner")
        self._values = declare(self, "planner")
        self._faults = load_faults(str(self._values["faults"]))
        self._planner: Planner | None = None
        self._newest_ns = 0
        self._cameras = CAMERAS  # that the world draws, as the session says
        self._intake: Intake | None = None
        self._worker: threading.Thread | None = None

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        from efficientgen.planning.load import load_planner  # loads torch

        try:
            name = str(self._values["planner"])
            given: dict[str, Any] = {key: self._values[key] for key in MODEL}
            self._planner = tampered_planner(load_planner(name, **given), self._faults)
            self._look = frames_needed(self._planner, 0 if self._values["world"] == "none" else 2)
            require_cameras(self._planner, cameras_of(str(self._values["world"])))
            if self._values["warm_up"]:
                self._planner.reset(0)
                warm = self._planner.plan(empty_observation(self._look))
                self.get_logger().info(f"{name}: warm-up plan in {sum(warm.stats.seconds.values()):.2f} s")
                if warm.stats.note:
                    self.get_logger().warning(f"{name} sees what it was not trained on: {warm.stats.note}")
        except Exception as error:  # whatever a checkpoint is wrong with: say it and stay unconfigured
            self.get_logger().error(f"cannot configure: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        self._wiring = Wiring(self, "planner", participants(name))
        self._out: dict[str, Any] = {key: self._wiring.publisher(key) for key in OUTPUTS}
        if self._faults:
            self._out["plan"] = TamperedPlans(self._out["plan"], self._faults)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._intake = intake = Intake(self._look, float(self._values["input_timeout_s"]), self._complain)
        self._wiring.subscribe("session", self._on_session)
        self._wiring.subscribe("command", lambda message: intake.add_command(codec.load(message.data, CommandAt)))
        for key in ("odometry", "acceleration", "steering"):
            self._wiring.subscribe(key, intake.add_ego)
        for name in CAMERAS:
            for kind in ("camera_info", "mount"):
                self._wiring.subscribe(f"{kind}/{name}", partial(intake.add_camera, name))
            self._wiring.subscribe(f"image/{name}", partial(intake.add_image, name))
        self._worker = threading.Thread(target=self._work, args=(intake,), name="planning", daemon=True)
        self._worker.start()
        result = super().on_activate(state)
        self._wiring.announce_when_matched()
        return result

    def _on_session(self, message: String) -> None:
        assert self._planner is not None and self._intake is not None
        session = codec.load(message.data, Session)
        self._cameras = session.cameras
        self._planner.reset(session.seed)  # before the first observation: the worker waits for the session
        self._intake.add_session(session)

    def _work(self, intake: Intake) -> None:
        while (found := intake.wait()) is not None:
            self._newest_ns = found.stamp_ns
            if isinstance(found, Lack):
                finding = Finding.MISSING if "frame" in found.what else Finding.NO_STATE
                self._say(_no_plan(found.stamp_ns, f"NotEnoughHistoryError: {finding.value}: no {found.what}"))
            else:
                self._say(self._answer(found))

    def _answer(self, observation: Observation) -> Plan:
        assert self._planner is not None
        try:
            require_fit(observation, Expected(self._cameras, self._look))
            return messages.snap_times(self._planner.plan(observation))
        except Exception as error:  # the drive goes on under the safety ladder, and the log says why
            if type(error).__module__.startswith("efficientgen"):  # named for what is wrong with the input
                self.get_logger().warning(f"no plan for {observation.stamp_ns / 1e9:.1f} s: {error}")
            else:
                self.get_logger().error(traceback.format_exc())
            return _no_plan(observation.stamp_ns, f"{type(error).__name__}: {error}")

    def _complain(self, words: str) -> None:
        """An input was refused."""
        self.get_logger().warning(words)
        self._out["diagnostics"].publish(viewers.diagnostics("planner", self._newest_ns, 3, words, {}))

    def _say(self, plan: Plan) -> None:
        stamp = plan.stamp_ns
        self._out["plan"].publish(messages.plan_message(plan))
        self._out["scaffold"].publish(text(messages.scaffold_json(plan)))
        self._out["plan_path"].publish(viewers.path_message(stamp, BASE_LINK, plan.waypoints, plan.times_s))
        self._out["rollouts"].publish(viewers.rollout_markers(plan))
        self._out["diagnostics"].publish(viewers.plan_diagnostics(plan))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        self._wiring.unsubscribe()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._wiring.unpublish()
        self._planner = None
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker; a plan in progress is finished first."""
        if self._intake is not None:
            self._intake.close()
        if self._worker is not None:
            self._worker.join(timeout=3.0)


def _no_plan(stamp_ns: int, why: str) -> Plan:
    return Plan(stamp_ns, np.zeros((0, 2)), np.zeros(0), text=why)


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.planner_node`."""
    run(PlannerNode, args)


if __name__ == "__main__":
    main()
