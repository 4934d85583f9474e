"""One process or several: torchrun's processes joined, the model sharded over them with FSDP2, counts averaged.

Started by `torchrun --nproc-per-node N`, each process holds a slice of every parameter, gradient and optimiser state
(`fully_shard`); layers are gathered one at a time.  Started plainly, everything here does nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


class RanksError(ValueError):
    """A batch that the processes cannot share."""


@dataclass(frozen=True)
class Ranks:
    """This process among `world` ones, and its device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    def share(self, batch: int) -> slice:
        """The rows of a global batch that are this process's.

        Raises:
            RanksError: the batch does not divide by the number of processes.
        """
        if batch % self.world:
            raise RanksError(f"a batch of {batch} rows over {self.world} processes: choose a multiple")
        each = batch // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, count: Tensor) -> Tensor:
        """Mean over the processes; no gradient passes."""
        if self.world == 1:
            return count
        total = count.detach().clone()
        dist.all_reduce(total)
        return total / self.world


def join(device: str = "") -> Ranks:
    """The processes that torchrun started (NCCL on GPUs, gloo on CPUs), or this one alone."""
    cuda = device.startswith("cuda") if device else torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(device=device or ("cuda" if cuda else "cpu"))
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(int(os.environ["RANK"]), world, f"cuda:{local}" if cuda else "cpu")


def leave(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.destroy_process_group()


def shard(root: nn.Module, layers: list[nn.Module], ranks: Ranks) -> None:
    """FSDP2: every layer a group of its own, the rest (embedding, norms, head) with the root; bf16 on GPUs."""
    if ranks.world == 1:
        return
    cuda = ranks.device.startswith("cuda")
    mesh = init_device_mesh("cuda" if cuda else "cpu", (ranks.world,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if cuda else MixedPrecisionPolicy()
    for module in (*layers, root):
        fully_shard(module, mesh=mesh, mp_policy=policy)


def gather_state(root: nn.Module, optimiser: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Whole model and optimiser state on the CPU of rank 0 (empty elsewhere); all processes must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = {"model": get_model_state_dict(root, options=options)}
    if optimiser is not None:
        state["optimiser"] = get_optimizer_state_dict(root, optimiser, options=options)
    return state


def scatter_state(root: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], ranks: Ranks) -> None:
    """The inverse of `gather_state`; rank 0 holds the state, whatever the number of processes that wrote it."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=ranks.world > 1)
    set_model_state_dict(root, state.get("model", {}), options=options)
    set_optimizer_state_dict(root, optimiser, state.get("optimiser", {}), options=options)
