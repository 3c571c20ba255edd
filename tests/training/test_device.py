"""The device of a process: chosen, made the current one, and nothing goes through the streams of another."""

import pytest
import torch

from ssdlite.api import Detector
from ssdlite.benchmark import workload
from ssdlite.build.load import load_model
from ssdlite.build.model import empty_detector
from ssdlite.config.schema import load_config
from ssdlite.errors import ConfigError
from ssdlite.models.predictor import Started, TorchPredictor, working_on
from ssdlite.structures import Batch
from ssdlite.training import distributed
from ssdlite.training.checkpoint import save_checkpoint
from ssdlite.training.step import on_device
from tests.training.test_step import make_batch


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as far as they can be pretended -> numbers that were made the current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1] if chosen else 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(torch.device(device).index))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return chosen


@pytest.fixture
def precision():
    """Leaves the precision of float32 as it was."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(("name", "number"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0), ("auto", 0)])
def test_the_chosen_gpu_becomes_the_current_one_without_torchrun(gpus, precision, name, number):
    with distributed.process_group(name) as device:
        assert device == torch.device("cuda", number) and gpus == [number]


def test_each_process_has_its_own_gpu(gpus, precision, monkeypatch):
    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.distributed, "rendezvous", stop)
    with pytest.raises(Stop), distributed.process_group("cuda"):
        pass
    assert gpus == [1]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda:1", "--device cuda:1 has no effect with torchrun"),
        ("cuda", "process 2 of this machine.*PyTorch sees 2"),
    ],
)
def test_a_process_does_not_take_the_gpu_of_another_one(gpus, precision, monkeypatch, name, sentence):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=sentence), distributed.process_group(name):
        pass
    assert gpus == []


def test_float32_is_not_tf32_on_a_gpu(gpus, precision):
    distributed.prepare_device(torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32  # a CPU has nothing to do with it
    distributed.prepare_device(torch.device("cuda:1"))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.conv.fp32_precision != "tf32" != torch.backends.cuda.matmul.fp32_precision


class Stream:
    """Remembers what is asked of it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.waited_for = torch.device(device), []

    def record_event(self) -> str:
        return f"copied to {self.device}"

    def wait_event(self, event: str) -> None:
        self.waited_for.append(event)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Recording(torch.Tensor):
    """A tensor that says which streams use it."""

    def record_stream(self, stream: Stream) -> None:
        self.users.append(stream)


def test_a_batch_is_handed_over_on_the_stream_of_its_own_gpu(monkeypatch):
    device, current = torch.device("cuda", 1), {}
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device=None: current.setdefault(device, Stream(device or "cuda:0"))
    )
    monkeypatch.setattr(Batch, "to", lambda self, device: self._map(recorded))
    batches = [make_batch(images)._replace(pending=torch.zeros(images, 12)) for images in (1, 2, 3)]
    moved = list(on_device(batches, device))
    assert [len(batch.images) for batch in moved] == [1, 2, 3]
    assert list(current) == [device]
    assert current[device].waited_for == ["copied to cuda:1"] * 3
    for batch in moved:
        for tensor in (*batch[:4], batch.pending):
            assert tensor.users == [current[device]]


def recorded(tensor: torch.Tensor) -> Recording:
    copy = tensor.as_subclass(Recording)
    copy.users = []
    return copy


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("cuda:1", False), ("mps", True), ("cpu", True)])
def test_only_copies_to_a_cuda_gpu_are_not_waited_for(monkeypatch, device, waits):
    """Metal copies from memory that may have been given back by then."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: asked.append(non_blocking) or self)
    make_batch().to(torch.device(device))
    assert asked == [not waits] * 4


@pytest.mark.parametrize(("device", "waits"), [("mps", True), ("cpu", True)])
def test_nor_are_those_of_a_predictor(monkeypatch, device, waits):
    asked = []

    def record(tensor, device, *, non_blocking, memory_format):
        asked.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", record)
    TorchPredictor(torch.nn.Identity(), None, torch.device(device)).start(make_batch())
    assert asked == [(device, not waits)]


@pytest.fixture
def checkpoint(tmp_path):
    config = load_config(None, ["model.width=0.25", "model.input_size=64"])
    weights = empty_detector(config, ("thing",)).state_dict()
    save_checkpoint(tmp_path / "a.pt", {"config": config.to_dict(), "classes": ["thing"], "weights": weights})
    return tmp_path / "a.pt"


def test_a_checkpoint_is_evaluated_on_a_device_that_is_prepared(checkpoint, monkeypatch):
    prepared = []
    monkeypatch.setattr(distributed, "prepare_device", lambda device: prepared.append(device) or device)
    load_model(checkpoint, device="cpu")
    assert prepared == [torch.device("cpu")]


def test_a_program_that_loads_a_detector_keeps_its_gpu_and_its_precision(checkpoint, gpus, precision, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: Stream(device))
    detector = Detector.load(checkpoint, device="cuda:1")
    assert detector._model.predictor.device == torch.device("cuda", 1)
    assert gpus == [] and torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "high"


def test_a_call_has_its_own_gpu_and_precision_and_gives_them_back(gpus, precision, monkeypatch):
    class OnGpu:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            inside.append(self.device)

        def __exit__(self, *_):
            inside.pop()

    def precisions():
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision

    inside: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", OnGpu)
    assert precisions() == ("tf32", "tf32")
    with pytest.raises(ZeroDivisionError), working_on(torch.device("cuda:1")):
        assert inside == [torch.device("cuda:1")] and precisions() == ("ieee", "ieee")
        raise ZeroDivisionError
    assert inside == [] and precisions() == ("tf32", "tf32")
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    with working_on(torch.device("cpu")):
        assert precisions() == ("tf32", "tf32")


def test_both_stages_of_a_predictor_work_so(gpus, monkeypatch):
    class Working(Exception):
        pass

    def work(device):
        raise Working(str(device))

    monkeypatch.setattr("ssdlite.models.predictor.working_on", work)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: Stream(device))
    predictor = TorchPredictor(torch.nn.Identity(), None, torch.device("cuda:1"))
    with pytest.raises(Working, match="cuda:1"):
        predictor.start(make_batch())
    with pytest.raises(Working, match="cuda:1"):
        predictor.finish(Started(None, [], "computed"))


def test_so_is_that_of_a_benchmark(monkeypatch):
    prepared = []
    monkeypatch.setattr(workload, "prepare_device", prepared.append)
    monkeypatch.setattr(workload, "keep_memory", lambda: None)
    workload.prepare_process(torch.device("cpu"))
    assert prepared == [torch.device("cpu")]
