"""The answerer as a lifecycle node: a question in as text, an answer out that streams while it is written.

It is no part of a drive and delays none: it listens in on the cameras and the route command of one that runs.
Configure loads the model and warms it up.  A question (`std_msgs/String`) is asked of the newest pictures; the pieces
of its answer go out on one topic, the whole with its cost as JSON on another.  One worker answers; questions that come
meanwhile wait their turn, and of too many the oldest are dropped and told so.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_msgs.msg import String

from efficientgen.eval.runner import FRAME_GAP_NS
from efficientgen.perception.types import Command
from efficientgen.planning.load import question_model, resolve_dtype
from efficientgen_ros import codec
from efficientgen_ros.interfaces import CAMERAS, QUESTIONS, TOPICS, message_class, quality
from efficientgen_ros.messages import picture_from, stamp_of, text
from efficientgen_ros.parameters import declare
from efficientgen_ros.session import CommandAt, run
from efficientgen_ros.warm_up import empty_observation

HELD_NS = 2 * FRAME_GAP_NS  # pictures that are kept; the model looks at the newest and the one a frame gap before
WAITING = 8  # questions


class AnswererNode(LifecycleNode):
    """Reads pictures, commands and questions; publishes answers."""

    def __init__(self) -> None:
        super().__init__("answerer")
        self._values = declare(self, "answerer")
        self._pictures: dict[str, deque[Image]] = {name: deque() for name in CAMERAS}
        self._command = Command.GO_STRAIGHT
        self._questions: deque[str] = deque()
        self._wake, self._open = threading.Condition(), True
        self._worker: threading.Thread | None = None
        if self._values["autostart"]:
            self.trigger_configure()
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        import torch

        from efficientgen.planning.dvlm import DVLM

        try:
            given = {key: str(value) for key, value in self._values.items()}
            torch.set_num_threads(int(self._values["threads"]))
            directory = question_model(given["planner"], given["checkpoint"])
            number_format = resolve_dtype(given["device"], given["dtype"])
            self._model = DVLM.from_pretrained(
                directory, decoder=given["decoder"], device=given["device"], dtype=number_format
            )
            self._model.ask(empty_observation(2), self._model.examples[0] if self._model.examples else "ready?")
        except Exception as error:  # whatever a checkpoint is wrong with: say it and stay unconfigured
            self.get_logger().error(f"cannot configure: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        self._out = {
            key: self.create_lifecycle_publisher(String, QUESTIONS[key].name, quality(QUESTIONS[key].depth))
            for key in ("answer", "answer_text")
        }
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._open = True
        keys: dict[str, Callable[[Any], None]] = {"command": self._on_command}
        keys |= {f"image/{name}": partial(self._on_image, name) for name in CAMERAS}
        topics = [(TOPICS[key], callback) for key, callback in keys.items()]
        topics.append((QUESTIONS["question"], self._on_question))
        self._heard = [
            self.create_subscription(message_class(t.type), t.name, callback, quality(t.depth, t.latched))
            for t, callback in topics
        ]
        self._worker = threading.Thread(target=self._work, name="answering", daemon=True)
        self._worker.start()
        return super().on_activate(state)

    def _on_command(self, message: String) -> None:
        self._command = codec.load(message.data, CommandAt).command

    def _on_image(self, name: str, message: Image) -> None:
        with self._wake:
            held = self._pictures[name]
            if held and stamp_of(held[-1].header.stamp) >= stamp_of(message.header.stamp):
                held.clear()  # another drive began
            held.append(message)
            while stamp_of(held[-1].header.stamp) - stamp_of(held[0].header.stamp) > HELD_NS:
                held.popleft()

    def _on_question(self, message: String) -> None:
        with self._wake:
            self._questions.append(message.data)
            if len(self._questions) > WAITING:
                self._refuse(self._questions.popleft(), f"more than {WAITING} questions are waiting")
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._questions:
                    self._wake.wait()
                if not self._open:
                    return
                question, pictures = self._questions.popleft(), self._newest()
            self._answer(question, pictures)

    def _newest(self) -> list[tuple[Image, Image]]:
        """Per camera the newest picture and the one a frame gap before it (or itself); empty while one has none."""
        if not all(self._pictures.values()):
            return []
        pairs = []
        for held in self._pictures.values():
            wanted = stamp_of(held[-1].header.stamp) - FRAME_GAP_NS
            before = next((p for p in held if stamp_of(p.header.stamp) == wanted), held[-1])
            pairs.append((before, held[-1]))
        return pairs

    def _answer(self, question: str, pictures: list[tuple[Image, Image]]) -> None:
        import numpy as np

        if not pictures:
            self._refuse(question, "there are no pictures yet: start a drive that draws them")
            return
        try:
            shown = [np.stack([picture_from(p) for p in pair]) for pair in pictures]
            reply = self._model.ask(shown, question, self._command, lambda piece: self._say("answer_text", piece))
        except Exception as error:  # a question in unknown words, a picture in another encoding: told, not fatal
            self._refuse(question, f"{type(error).__name__}: {error}")
            return
        row: dict[str, Any] = {"question": question, "answer": reply.text, "decoder": reply.decoder}
        row |= {"tokens": reply.tokens, "forwards": reply.counts.forwards, "seconds": dict(reply.seconds)}
        row["stamp_ns"] = stamp_of(pictures[0][1].header.stamp)
        self._say("answer", json.dumps(row))

    def _refuse(self, question: str, why: str) -> None:
        self.get_logger().warning(f"no answer to {question!r}: {why}")
        self._say("answer", json.dumps({"question": question, "error": why}))

    def _say(self, key: str, words: str) -> None:
        self._out[key].publish(text(words))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        while self._heard:
            self.destroy_subscription(self._heard.pop())
        return super().on_deactivate(state)

    def close(self) -> None:
        """Stop answering."""
        with self._wake:
            self._open = False
            self._wake.notify()
        if self._worker is not None:
            self._worker.join(timeout=5.0)
            self._worker = None


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.answerer_node`."""
    run(AnswererNode, args)


if __name__ == "__main__":
    main()
