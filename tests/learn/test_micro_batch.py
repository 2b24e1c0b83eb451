"""Memory: the search for the largest micro-batch, with a limit that is simulated, and what is said when it runs out."""

import pytest
import torch

from object_centric_bench.learn.loop import train
from object_centric_bench.learn.micro_batch import fewest_pieces, is_out_of_memory
from object_centric_bench.learn.run import TrainingStopped

from .conftest import squared_error


@pytest.mark.parametrize("size", [1, 2, 7, 32, 100])
def test_the_fewest_pieces_that_fit_are_found_for_any_limit(size):
    for limit in range(1, size + 1):
        tried = []

        def fits(samples, limit=limit, tried=tried):
            tried.append(samples)
            return samples <= limit

        count = fewest_pieces(size, fits)
        assert -(-size // count) <= limit
        assert count == 1 or -(-size // (count - 1)) > limit
        assert len(tried) == len(set(tried)) <= 2 * size.bit_length() + 1
    assert fewest_pieces(size, lambda samples: False) is None


def limited(limit, error=None):
    """A loss for which memory runs out above a number of samples."""

    def loss(batch, output):
        if len(batch["index"]) > limit:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return squared_error(batch, output)

    return loss


def test_auto_finds_what_fits_and_trains_like_the_whole_batch(make_run):
    runs = [make_run(name, loss=loss) for name, loss in (("whole", squared_error), ("auto", limited(2)))]
    runs[1].micro_batch = "auto"
    for run in runs:
        run.model.dropout.p = 0.0
        run.eval_batches = lambda: iter(())
        run.eval_length, run.eval_every, run.total_steps = 0, 1000, 12
        run.callbacks = run.callbacks[:1]
    for run in runs:
        run.eval_every = 10**6
        run.evaluated = run.total_steps  # no evaluation: it takes whole batches
        train(run)
    assert runs[1].micro_batch == 2
    for name, tensor in runs[0].model.state_dict().items():
        torch.testing.assert_close(runs[1].model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "error", [None, RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_says_what_was_too_large_and_what_halves_it(make_run, error):
    run = make_run(loss=limited(2, error))
    with pytest.raises(TrainingStopped) as caught:
        train(run)
    text = str(caught.value)
    assert "out of memory on cpu at step 0, with 3 samples at once (image 4)" in text
    assert "micro_batch=1 halves it" in text
    assert "micro_batch=auto" in text


def test_running_out_in_evaluation_names_its_own_batch_size(make_run):
    def loss(batch, output):
        if int(batch["index"][0]) == 100:
            raise MemoryError("no more")
        return squared_error(batch, output)

    with pytest.raises(TrainingStopped, match=r"dataset\.eval_batch_size=1 halves it"):
        train(make_run(loss=loss))


def test_not_even_one_sample_fits(make_run):
    run = make_run(loss=limited(0))
    run.micro_batch = "auto"
    with pytest.raises(TrainingStopped, match="with 1 samples at once"):
        train(run)


def test_other_errors_are_not_taken_for_it(make_run):
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    run = make_run(loss=limited(2, RuntimeError("shape mismatch")))
    run.micro_batch = "auto"
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(run)
