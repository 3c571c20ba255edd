"""Every operator that a GPU is asked for has a kernel there, for its dtypes and device; asked without a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scripts.operator_audit.recorder import record
from scripts.operator_audit.rules import audit, known_dtypes
from scripts.operator_audit.tables import read_tables
from scripts.operator_audit.workloads import (
    BUILDING,
    config_of,
    make_batch,
    make_step,
    on_cpu,
    workloads,
)
from ssdlite.benchmark.workload import take_step, total_loss
from ssdlite.training.loggers import Meter


@pytest.mark.parametrize(
    ("device", "name"), [(device, name) for device in ("cuda", "mps") for name in workloads(device)]
)
def test_what_we_launch_has_kernels(device, name):
    work, may_wait = workloads(device)[name]
    found = audit(work, device, may_wait)
    assert len(found.launches) > 50
    assert not found.faults, "\n".join(map(str, found.faults))


def zeros(device: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape or (3,), dtype=dtype, device=device)


def greatest_bool(device):
    index = zeros(device, dtype=torch.int64)
    zeros(device, dtype=torch.bool).scatter_reduce(0, index, zeros(device, dtype=torch.bool), "amax")


def least_integer(device):
    index = zeros(device, dtype=torch.int64)
    zeros(device, dtype=torch.int64).scatter_reduce(0, index, index, "amin")


def product_of_integers(device):
    torch.matmul(zeros(device, 3, 3, dtype=torch.int64), zeros(device, 3, 3, dtype=torch.int64))


def histogram_of_halves(device):
    torch.histc(zeros(device, dtype=torch.float16), 3)


def gradient_without_a_kernel(device):
    """The operator is asked for by backward alone, and blamed on the line that made the node."""

    class Sorted(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
            return values.clone()

        @staticmethod
        def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient.to(torch.int64).matmul(gradient.to(torch.int64)) * gradient

    Sorted.apply(zeros(device).requires_grad_()).sum().backward()


def step_that_looks_at_the_loss(device):
    step, batch = make_step(config_of(()), device), make_batch(device)
    loss = total_loss(step.gradients(batch))
    if loss.item() < 100:
        step.update(loss)


def mask(device):
    return zeros(device)[zeros(device) > 0]


def places_of_a_mask(device):
    return torch.nonzero(zeros(device))


def list_as_index(device):
    """PyTorch makes a tensor of it on the CPU and waits until it is copied."""
    return zeros(device, 3, 3)[:, [1]]


def new_constants(device):
    return zeros(device).new_tensor([1.0, 2.0, 3.0])


def copy_to_the_cpu(device):
    return zeros(device).cpu()


def index_on_the_cpu(device):
    return zeros(device).gather(0, torch.zeros(3, dtype=torch.int64))


def loss_terms_of_two_devices(device):
    """As of a meter restored from a checkpoint: without an axis, which FakeTensor itself lets pass."""
    return torch.stack([torch.tensor(1.0), zeros(device).sum()])


def restored_meter(device):
    """Stacked with the next step's when a line of the log is due."""
    meter = Meter()
    meter._terms.append({"box": torch.tensor(1.0)})
    meter.count({"box": zeros(device).sum()}, 1)
    meter.take()


def average_left_on_the_cpu(device):
    """A saved state that is taken as it is read, not copied into the tensors of the device."""
    step, batch = make_step(config_of(()), device), make_batch(device)
    take_step(step, batch)
    assert step.ema is not None
    step.ema._means = on_cpu(step.ema._means)
    take_step(step, batch)


def momentum_left_on_the_cpu(device):
    step, batch = make_step(config_of(()), device), make_batch(device)
    for state in step.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].cpu()
    take_step(step, batch)


def scale_left_on_the_cpu(device):
    """The scaler takes it along, which waits in every step."""
    step, batch = make_step(config_of((), "fp16"), device), make_batch(device)
    step.scaler._scale = torch.full((1,), 2.0)
    step.scaler._growth_tracker = torch.zeros(1, dtype=torch.int32)
    take_step(step, batch)


def generator_of_the_cpu(device):
    torch.rand(3, device=device, generator=torch.Generator().manual_seed(0))


def criterion_left_on_the_cpu(device):
    step, batch = make_step(config_of(("loss.class_weights={one: 2}",)), device), make_batch(device)
    step.criterion.recipe.weights = torch.ones(4)
    step.loss(step.forward(batch), batch)


def double_precision(device):
    zeros(device).double().mean()


def parameter_of_double_precision(device):
    nn.Parameter(zeros(device, dtype=torch.float64)) * 2


def unpinned_and_not_waited_for(device):
    make_batch().images.to(device, non_blocking=True)


def found_inf_of_a_fused_step(device):
    parameter = nn.Parameter(zeros(device))
    optimizer = torch.optim.SGD([parameter], lr=0.1, fused=True)
    parameter.grad = zeros(device)
    optimizer.found_inf = zeros(device, 1)
    optimizer.step()


PLANTED: list[tuple[Callable[[torch.device], object], str, str, str]] = [
    (greatest_bool, "cuda", "kernel", "scatter_reduce.two[amax] (bool)"),
    (product_of_integers, "cuda", "kernel", "mm (int64)"),
    (histogram_of_halves, "cuda", "kernel", "(float16)"),
    (gradient_without_a_kernel, "cuda", "kernel", "(int64)"),
    (step_that_looks_at_the_loss, "cuda", "wait", "_local_scalar_dense"),
    (mask, "cuda", "wait", "index"),
    (places_of_a_mask, "cuda", "wait", "nonzero"),
    (list_as_index, "cuda", "wait", "_to_copy"),
    (new_constants, "cuda", "wait", "_to_copy"),
    (copy_to_the_cpu, "cuda", "wait", "_to_copy"),
    (index_on_the_cpu, "cuda", "devices", "gather"),
    (loss_terms_of_two_devices, "cuda", "devices", "stack"),
    (restored_meter, "cuda", "devices", "stack"),
    (average_left_on_the_cpu, "cuda", "devices", "_foreach_lerp_"),
    (momentum_left_on_the_cpu, "cuda", "devices", "_fused_sgd_"),
    (scale_left_on_the_cpu, "cuda", "wait", "_to_copy"),
    (criterion_left_on_the_cpu, "cuda", "devices", "index"),
    (generator_of_the_cpu, "cuda", "generator", "rand"),
    (least_integer, "mps", "kernel", "scatter_reduce.two[amin] (int64)"),
    (double_precision, "mps", "float64", "_to_copy"),
    (parameter_of_double_precision, "mps", "float64", "mul"),
    (unpinned_and_not_waited_for, "mps", "pageable", "_to_copy"),
    (found_inf_of_a_fused_step, "mps", "kernel", "_fused_sgd_"),
]


@pytest.mark.parametrize(
    ("work", "device", "kind", "operator"), PLANTED, ids=[f"{each[1]}-{each[0].__name__}" for each in PLANTED]
)
def test_planted_faults_are_found(work, device, kind, operator):
    faults = audit(work, device, BUILDING).faults
    assert any(fault.kind == kind and operator in fault.operator for fault in faults), faults


def test_a_fault_names_its_line():
    fault = next(each for each in audit(greatest_bool).faults if each.kind == "kernel")
    line = greatest_bool.__code__.co_firstlineno + 2
    assert fault.site == f"tests/gpu/test_operators.py:{line} in greatest_bool"
    assert "bool" in str(fault) and fault.site in str(fault)


def test_backward_is_blamed_on_the_line_that_was_differentiated():
    def work(device: torch.device) -> None:
        values = zeros(device).requires_grad_()
        squares = values.square()
        squares.sum().backward()

    launches = record(work).launches
    line = work.__code__.co_firstlineno + 2
    assert {each.name for each in launches if each.is_backward and f":{line} in work" in each.site} >= {
        "pow",
        "mul",
    }


def test_gradients_have_the_shapes_of_what_they_are_of():
    def work(device: torch.device) -> None:
        weight, bias = zeros(device, 4, 3).requires_grad_(), zeros(device).requires_grad_()
        values = weight * 2 + bias
        torch.stack([values.sum(), values.max(dim=0).values.mean()]).sum().backward()
        assert weight.grad is not None and bias.grad is not None
        assert weight.grad.shape == (4, 3) and bias.grad.shape == (3,)

    assert not record(work).faults


def test_functions_of_ours_may_have_arguments_that_are_no_tensors():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, factor: float, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return values * factor + bias

        @staticmethod
        def backward(_: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor]:
            return None, gradient, gradient.sum()

    def work(device: torch.device) -> None:
        values, bias = zeros(device).requires_grad_(), zeros(device, 1).sum().requires_grad_()
        Scaled.apply(2.0, values, bias).sum().backward()
        assert values.grad is not None and values.grad.shape == (3,)
        assert bias.grad is not None and bias.grad.shape == ()

    assert not record(work).faults


def test_mps_is_what_code_sees_of_it():
    def work(device: torch.device) -> None:
        assert zeros(device).device.type == "mps" == torch.zeros(3).to(device).device.type
        assert torch.tensor([1.0], device=device).device.type == "mps"

    assert not [each for each in record(work, "mps", may_wait="").faults if each.kind == "error"]


def test_the_table_is_that_of_a_gpu_with_bf16():
    """It is read on a machine without one, where PyTorch itself leaves bf16 out of matmul."""
    infos = read_tables().infos["cuda"]
    assert {"bfloat16", "float16", "float32"} <= infos["matmul"][""].dtypes
    assert "bool" in infos["scatter_reduce"]["sum"].dtypes - infos["scatter_reduce"]["amax"].dtypes
    assert "float64" not in read_tables().infos["mps"]["add"][""].dtypes


def test_variants_are_told_apart_and_unknown_operators_are_not_let_through():
    def work(device: torch.device) -> None:
        index = zeros(device, dtype=torch.int64)
        zeros(device).scatter_reduce(0, index, zeros(device), "amin")
        torch.div(zeros(device), 2, rounding_mode="floor")

    launches = {each.variant: each for each in record(work).launches}
    assert launches.keys() == {"", "amin", "floor"}
    tables = read_tables()
    assert known_dtypes(launches["amin"], "cuda", tables) == tables.infos["cuda"]["scatter_reduce"]["amin"].dtypes
    assert known_dtypes(launches["amin"]._replace(operator="aten::nobody"), "cuda", tables) is None
