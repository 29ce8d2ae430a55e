"""FSDP2: each process keeps a part of the weights, gradients, averages and moments.

For models that do not fit one device (`torch.distributed.fsdp.fully_shard`; ZeRO stage 3,
Rajbhandari et al., SC 2020). A part is a run of a tensor's rows: the first of N processes has the
first N-th of them, and so on, as `torch.chunk` cuts. Blocks and projection heads are brought
together one at a time, when they are due, and all that is left with the first of them.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from repa.config import TrainOptions
from repa.errors import RepaError
from repa.models import Backbone
from repa.training.ema import EMA
from repa.training.module import TrainingModule

SUM = "set_force_sum_reduction_for_comms"
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shards(options: TrainOptions, accelerator: Accelerator) -> bool:
    """Whether this run is sharded: it is asked for, and there are processes to share with.

    Raises:
        RepaError: if this PyTorch cannot do it on this device.
    """
    if not options.fsdp:
        return False
    if accelerator.num_processes == 1:
        print(
            "warning: --fsdp: one process keeps everything itself; start several with torchrun or "
            "accelerate launch to share it",
            file=sys.stderr,
        )
        return False
    if not can_shard(accelerator.device):
        raise RepaError(
            f"--fsdp on the CPU needs PyTorch 2.8 or newer, this is {torch.__version__}: update "
            "it, or leave --fsdp out"
        )
    return True


def can_shard(device: torch.device) -> bool:
    """Whether this PyTorch shards on such a device.

    On the CPU older ones fail, or return sums of gradients for averages (pytorch issue 162338);
    what is looked for here lets it be told to divide by itself.
    """
    return device.type != "cpu" or hasattr(FSDPModule, SUM)


def shard_training(
    module: TrainingModule, ema_decay: float, accelerator: Accelerator
) -> ShardedEMA:
    """Cuts a module on the CPU, the same one on every process, and an average of its backbone.

    The device never holds more of them than this process's part and one block.
    """
    device = accelerator.device
    ema = ShardedEMA(module.model, ema_decay, device)
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    shard(module, mesh, HALF.get(accelerator.mixed_precision))
    shard(ema.model, mesh)
    ema.follow(module.model)
    return ema


def shard(module: nn.Module, mesh: DeviceMesh, half: torch.dtype | None = None) -> None:
    """Cuts a module's parameters; `load_state_dict` still takes whole tensors.

    Args:
        module: each entry of its `nn.ModuleList`s is a unit that is brought together by itself.
        mesh: the processes, in one dimension.
        half: what weights are rounded to before units are brought together, which autocast would
            do to them afterwards. Parts and gradients' sums remain float32.
    """
    # No output of a unit is changed in place.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for unit in _units(module):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)  # embeddings, which autocast leaves as they are
    for part in module.modules():
        if mesh.device_type == "cpu" and isinstance(part, FSDPModule):
            part.set_force_sum_reduction_for_comms(True)
        part.register_load_state_dict_pre_hook(_cut_before_loading)


def compile_units(module: nn.Module, backend: str = "inductor") -> None:
    """Compiles what runs while a unit is whole: bringing it together cannot be in a graph."""
    for unit in _units(module):
        unit.forward = torch.compile(unit.forward, dynamic=False, backend=backend)


def prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What `accelerator.prepare` does; a sharded module gets autocast, but no DDP."""
    if not isinstance(module, FSDPModule):
        prepared: tuple[nn.Module, torch.optim.Optimizer] = accelerator.prepare(module, optimizer)
        return prepared
    accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
    return module, accelerator.prepare_optimizer(optimizer)


class ShardedEMA(EMA):
    """An average whose tensors are cut as the weights that it follows.

    Args:
        model: the model to follow, not sharded yet.
        decay: in [0, 1).
        device: where whole copies are put.
    """

    def __init__(self, model: Backbone, decay: float, device: torch.device):
        super().__init__(model, decay)
        self._device = device
        # Modules and buffers: a sharded module cannot be copied.
        empty = {id(p): nn.Parameter(p.to("meta"), False) for p in self.model.parameters()}
        self._plain: Backbone = copy.deepcopy(self.model, empty)

    @torch.no_grad()
    def update(self) -> None:
        """One step of this process's part."""
        torch._foreach_lerp_(_local(self._averages), _local(self._weights), 1 - self.decay)

    def whole(self, keep: bool = True) -> Backbone | None:
        """A plain copy on the device, for those who keep it; all processes must call this."""
        tensors = gather(self.model.state_dict(), self._device if keep else None)
        if not keep:
            return None
        model = copy.deepcopy(self._plain)
        model.load_state_dict(tensors, assign=True)
        return model.to(self._device)


@torch.no_grad()
def gather(tensors: Mapping[str, Tensor], device: torch.device | None) -> dict[str, Tensor]:
    """The same tensors, sharded ones whole on a device; all processes must call this.

    One tensor at a time is brought together. With None in place of the device nothing is kept.
    """
    whole = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor)
        if device is not None:
            whole[name] = full if full is tensor else full.to(device)
    return whole


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself; a sharded one whole, if all processes call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor, cut as another is; what is not, or has no rows, as it is."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor) or whole.ndim == 0:
        return whole
    mesh = like.device_mesh
    parts = whole.chunk(mesh.size())
    place = mesh.get_local_rank()
    part = parts[place] if place < len(parts) else whole[:0]
    return DTensor.from_local(
        part.to(like.device, copy=True),  # or the part would keep the whole in memory
        mesh,
        like.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _units(module: nn.Module) -> list[nn.Module]:
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return [unit for units in lists for unit in units]


def _cut_before_loading(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object
) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in state_dict:
            state_dict[prefix + name] = cut_like(state_dict[prefix + name], parameter)


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
