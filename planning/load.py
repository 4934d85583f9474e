"""Planners by name: the baselines, the shipped checkpoints, and a user's own model directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efficientgen import MissingDataError, share
from efficientgen.perception.types import Planner
from efficientgen.planning.releases import RELEASES

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
ADAPTER = "adapter.safetensors"  # an update of another model's weights, see `adapter.py`
CONSTANT_VELOCITY = "constant-velocity"
LOG_REPLAY = "log-replay"  # needs a recording of the scenario: `eval.replay.log_replay` makes it
EXPERT = "expert"  # privileged: drives on the oracle, is no `Planner`
BASELINES = (EXPERT, CONSTANT_VELOCITY, LOG_REPLAY)  # drive without a model and without pixels
DEFAULT = "nano-ddrive"
DTYPES = ("float32", "bfloat16", "float16", "float64")


class UnknownPlannerError(ValueError):
    """A planner name that is neither a baseline nor a checkpoint."""


class WeightsNotShippedError(UnknownPlannerError):
    """A released planner whose weights the user has to bring."""


class WrongFamilyError(ValueError):
    """A directory that holds another model than the planner's name says."""


class DeviceError(ValueError):
    """A device that this machine or this torch does not have, or a number format that is none."""


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
        WeightsNotShippedError: it is a released one, and no directory is given.
    """
    if checkpoint:
        return Path(checkpoint)
    if name in RELEASES:
        release = RELEASES[name]
        raise WeightsNotShippedError(
            f"the weights of '{name}' ({release.gib:.0f} GiB) are not shipped: get {release.hub} and give its "
            "directory as checkpoint; `efficientgen models` says what belongs into it"
        )
    for directory in shipped_models():
        if directory.name == name:
            return directory
    if name == LOG_REPLAY:
        raise UnknownPlannerError(f"'{name}' replays a recorded drive of each scenario: only `eval` drives it")
    names = [*BASELINES, *(p.name for p in shipped_models())]
    raise UnknownPlannerError(f"no planner '{name}'; choose one of {', '.join(names)}, or give --checkpoint DIR")


def checked_directory(name: str, checkpoint: str | Path = "") -> Path:
    """`model_directory`; of one that was given, the config and the weights' headers are looked at, and no more.

    Raises:
        UnknownPlannerError, WrongFamilyError, CheckpointError: as `load_planner`.
    """
    directory = model_directory(name, checkpoint)
    if checkpoint:
        from efficientgen.kernels.shards import stored_tensors
        from efficientgen.planning.config_json import config_from_json, read_config
        from efficientgen.planning.layouts import our_name

        family = config_from_json(read_config(directory)).family
        if name in RELEASES and family != name:
            raise WrongFamilyError(f"{directory} holds a {family}, not a {name}: give planner '{family}'")
        stored_tensors(directory, WEIGHTS, our_name)
    return directory


def question_model(name: str, checkpoint: str | Path = "") -> Path:
    """Directory of the question model called `name`: `checkpoint` if given, else what is shipped under that name.

    Raises:
        UnknownPlannerError: there is none.
    """
    if checkpoint:
        return Path(checkpoint)
    for directory in shipped_adapters():
        if directory.name == name:
            return directory
    return model_directory(name)


def shipped_adapters() -> tuple[Path, ...]:
    """Directories of the adapters that come with the package."""
    try:
        return tuple(sorted(p.parent for p in share("checkpoints").glob(f"*/{ADAPTER}")))
    except MissingDataError:
        return ()


def load_planner(
    name: str,
    checkpoint: str | Path = "",
    decoder: str = "",
    use_history: bool = True,
    rollouts: int = 1,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "",
    schema: str = "",
) -> Planner:
    """The planner called `name`, ready to plan; a learned one averages `rollouts` sampled trajectories (1: greedy).

    `threads` of this process for the model.  One is the default: sums then come out alike on every machine, so that the
    same seed gives the same drive, and torch's threads do not spin against the renderer's for the cores (on two busy
    cores two threads were measured 25 times slower than one).

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        dtype: of the weights on it; by default float32 on a CPU and bfloat16 elsewhere.
        schema: the answer to ask for, where the checkpoint's config does not name the one ("wod-e2e", "nuscenes").

    Raises:
        UnknownPlannerError: no such planner, or its weights are not here.
        WrongFamilyError: the checkpoint holds another released planner than `name`.
        DeviceError: no such device or number format.
        CheckpointError: its directory is incomplete or damaged.
        UnknownDecoderError: the model has no such decoder.
    """
    if name == CONSTANT_VELOCITY and not checkpoint:
        from efficientgen.planning.constant_velocity import ConstantVelocity

        return ConstantVelocity()
    directory = checked_directory(name, checkpoint)
    import torch

    from efficientgen.planning.ddrive import DDrive

    number_format = resolve_dtype(device, dtype)
    torch.set_num_threads(threads)
    return DDrive.from_pretrained(
        directory,
        decoder=decoder or "scaffold-spec",
        use_history=use_history,
        rollouts=rollouts,
        device=device,
        dtype=number_format,
        schema=schema,
    )


def resolve_dtype(device: str, dtype: str = "") -> torch.dtype:
    """The number format called `dtype` on `device`; by default float32 on a CPU and bfloat16 elsewhere.

    Raises:
        DeviceError: no such format, or no such device here.
    """
    import torch

    if dtype and dtype not in DTYPES:
        raise DeviceError(f"no number format '{dtype}'; choose one of {', '.join(DTYPES)}")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise DeviceError(f"no device '{device}' here ({why}); use cpu, or cuda with a GPU build of torch") from error
    kind = torch.device(device).type
    return getattr(torch, dtype or ("float32" if kind == "cpu" else "bfloat16"))
