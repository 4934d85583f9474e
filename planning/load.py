"""Planners by name: the baselines, the shipped checkpoints, and a user's own model directory."""

from __future__ import annotations

from pathlib import Path

from efficientgen import MissingDataError, share
from efficientgen.perception.types import Planner

WEIGHTS = "model.safetensors"
CONSTANT_VELOCITY = "constant-velocity"
LOG_REPLAY = "log-replay"  # needs a recording of the scenario: `eval.replay.log_replay` makes it
EXPERT = "expert"  # privileged: drives on the oracle, is no `Planner`
BASELINES = (EXPERT, CONSTANT_VELOCITY, LOG_REPLAY)  # drive without a model and without pixels
DEFAULT = "nano-ddrive"


class UnknownPlannerError(ValueError):
    """A planner name that is neither a baseline nor a checkpoint."""


def shipped_models() -> tuple[Path, ...]:
    """Directories of the checkpoints that come with the package."""
    try:
        root = share("checkpoints")
    except MissingDataError:
        return ()
    return tuple(sorted(p.parent for p in root.glob(f"*/{WEIGHTS}")))


def model_directory(name: str, checkpoint: str | Path = "") -> Path:
    """Where the model called `name` lives: `checkpoint` if given, else the shipped directory of that name.

    Raises:
        UnknownPlannerError: there is none.
    """
    if checkpoint:
        return Path(checkpoint)
    for directory in shipped_models():
        if directory.name == name:
            return directory
    if name == LOG_REPLAY:
        raise UnknownPlannerError(f"'{name}' replays a recorded drive of each scenario: only `eval` drives it")
    names = [*BASELINES, *(p.name for p in shipped_models())]
    raise UnknownPlannerError(f"no planner '{name}'; choose one of {', '.join(names)}, or give --checkpoint DIR")


def load_planner(
    name: str,
    checkpoint: str | Path = "",
    decoder: str = "",
    use_history: bool = True,
    rollouts: int = 1,
    threads: int = 1,
) -> Planner:
    """The planner called `name`, ready to plan; a learned one averages `rollouts` sampled trajectories (1: greedy).

    `threads` of this process for the model.  One is the default: sums then come out alike on every machine, so that the
    same seed gives the same drive, and torch's threads do not spin against the renderer's for the cores (on two busy
    cores two threads were measured 25 times slower than one).

    Raises:
        UnknownPlannerError: no such planner.
        CheckpointError: its directory is incomplete or damaged.
        UnknownDecoderError: the model has no such decoder.
    """
    if name == CONSTANT_VELOCITY and not checkpoint:
        from efficientgen.planning.constant_velocity import ConstantVelocity

        return ConstantVelocity()
    import torch

    from efficientgen.planning.ddrive import DDrive

    directory = model_directory(name, checkpoint)
    torch.set_num_threads(threads)
    return DDrive.from_pretrained(
        directory, decoder=decoder or "scaffold-spec", use_history=use_history, rollouts=rollouts
    )
