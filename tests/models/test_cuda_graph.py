"""What a recording that CUDA breaks off leaves behind, by a stand-in for torch's side of it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from fisao_pipeline.models import cuda_graph
from fisao_pipeline.models.cuda_graph import CudaGraph


class Torch:
    """Keeps what torch 2.11 keeps of recordings: pools that are recorded into, their graphs, and the generator."""

    def __init__(self):
        self.underway, self.uses, self.streams = [], {}, 0
        self.generator_records = self.is_broken = False

    def end(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device, pool):
        self.uses[pool] -= 1
        assert self.uses[pool] >= 0


@pytest.fixture
def state(monkeypatch):
    torch_ = Torch()

    class Graph:
        def __init__(self):
            self.ended = False

        def capture_begin(self, pool=None, capture_error_mode="global"):
            self.pool_ = pool or (len(torch_.uses) + 1, 0)
            assert self.pool_ not in torch_.underway
            assert torch_.uses.get(self.pool_, 1) > 0, "a pool that no graph is in"
            torch_.uses[self.pool_] = torch_.uses.get(self.pool_, 0) + 1
            torch_.underway.append(self.pool_)
            torch_.generator_records = True

        def capture_end(self):
            if torch_.is_broken:
                torch_.is_broken = False
                raise RuntimeError("operation failed due to a previous error during capture")
            torch_.end(0, self.pool_)
            torch_.generator_records, self.ended = False, True

        def reset(self):
            if self.ended:
                torch_.release(0, self.pool_)
                self.ended = False

        def __del__(self):
            self.reset()

        def replay(self):
            pass

    def stream(device):
        torch_.streams += 1
        return SimpleNamespace(device=torch.device("cpu"), device_index=0, wait_stream=lambda other: None)

    handles = iter(range(1, 100))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, next(handles)))
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    torch_.modes = modes
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", torch_.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", torch_.release, raising=False)
    cuda_graph._stream_aside.cache_clear()
    monkeypatch.setattr(cuda_graph, "_GIVEN_UP", [])
    yield torch_
    cuda_graph._stream_aside.cache_clear()


DEVICE = torch.device("cuda", 0)


def compute():
    return torch.ones(1)


def test_what_waits_for_the_device_is_an_error_before_it_is_recorded(state):
    def waits():
        assert state.modes[-1] == "error"
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        CudaGraph(DEVICE, None).run(waits)
    assert state.modes[-1] == 0


def test_a_recording_that_is_broken_off_leaves_nothing_behind(state):
    good = CudaGraph(DEVICE, None)
    good.record(compute)

    def waits():
        state.is_broken = True
        raise RuntimeError("operation not permitted when stream is capturing")

    for before in (None, good):
        bad = CudaGraph(DEVICE, before)
        with pytest.raises(RuntimeError, match="not permitted"):
            bad.record(waits)
        assert not state.underway, "the allocator would never give cached memory back again"
        assert not state.generator_records, "no random number could be drawn any more"
        del bad
    assert state.uses[good._pool] == 1
    pool = good._pool
    del good, before
    assert sum(state.uses.values()) == 0 and pool in state.uses


def test_one_that_is_broken_off_without_an_error_of_its_own_is_noticed_at_its_end(state):
    def waits():
        state.is_broken = True
        return torch.ones(1)

    with pytest.raises(RuntimeError, match="previous error"):
        CudaGraph(DEVICE, None).record(waits)
    assert not state.underway and not state.generator_records


def test_an_error_that_breaks_nothing_off_ends_the_recording(state):
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory")

    graph = CudaGraph(DEVICE, None)
    with pytest.raises(torch.OutOfMemoryError):
        graph.record(fails)
    assert not state.underway and not state.generator_records and not cuda_graph._GIVEN_UP
    del graph
    assert sum(state.uses.values()) == 0


def test_a_graph_takes_the_memory_of_the_one_before_and_the_stream_of_all(state):
    first = CudaGraph(DEVICE, None)
    first.record(compute)
    streams = state.streams
    second = CudaGraph(DEVICE, first)
    second.record(compute)
    CudaGraph(DEVICE, None).run(compute)
    assert second._pool == first._pool
    assert state.uses[first._pool] == 2
    del first
    assert state.uses[second._pool] == 1
    assert len({id(graph._stream) for graph in (second, CudaGraph(DEVICE, None))}) == 1
    assert state.streams - streams == 2, "those that the caller is on; none of a graph's own"
