"""Batches: the same for any number of workers and after any restart; errors that name file and index."""

import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from object_centric_bench.datum.dataset import Dataset
from object_centric_bench.datum.lmdb import Reader
from object_centric_bench.datum.loader import batches, collate, epoch_length, eval_batches
from object_centric_bench.datum.record import DataError, pack
from object_centric_bench.datum.shapes import Shapes, convert
from object_centric_bench.datum.transform import RandomCrop, RandomFlip, Resize

from .stores import write

KEYS = ["image", "segment"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    convert(folder, 22, 7, size=48)
    return folder


@pytest.fixture
def dataset(folder):
    transforms = [RandomCrop(KEYS), Resize(["image"], 24), Resize(["segment"], 24, "nearest-exact"), RandomFlip(KEYS)]
    return Shapes("train.lmdb", KEYS, transforms, str(folder))


def take(dataset, **options):
    return list(batches(dataset, 4, **{"seed": 5, "total_steps": 14, **options}))


def same(first, second):
    assert len(first) == len(second) and first
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all((a[key] == b[key]).all() for key in a)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_same_batches_for_any_number_of_workers(dataset, workers):
    same(take(dataset), take(dataset, num_workers=workers))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_same_batches_for_both_ways_to_start_workers(dataset, method):
    same(take(dataset, total_steps=3), take(dataset, total_steps=3, num_workers=1, start_method=method))


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 13])
def test_restart_at_any_step(dataset, start):
    same(take(dataset)[start:], take(dataset, start_step=start, num_workers=start % 2))


def test_nothing_is_left_at_the_end(dataset):
    assert take(dataset, start_step=14) == []


def test_starting_late_reads_nothing_before(dataset, monkeypatch):
    read = []
    original = Shapes.sample
    monkeypatch.setattr(Shapes, "sample", lambda self, i, rng: read.append(i) or original(self, i, rng))
    next(batches(dataset, 4, seed=5, start_step=10**6, total_steps=10**9))
    assert len(read) == 4


def test_epochs_are_permutations_that_differ(dataset):
    found = take(dataset, total_steps=18)
    assert epoch_length(dataset, 4) == 6
    assert [len(batch["index"]) for batch in found[:6]] == [4, 4, 4, 4, 4, 2]
    epochs = [torch.cat([batch["index"] for batch in found[i : i + 6]]).tolist() for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(22))


def test_draws_differ_between_epochs_samples_and_seeds(folder):
    dataset = Shapes("train.lmdb", ["segment"], [Draw()], str(folder))
    dataset.finish = lambda sample: sample
    draws = torch.cat([batch["segment"].flatten() for seed in (1, 2) for batch in take(dataset, seed=seed)])
    assert len(draws.unique()) == len(draws)


def test_the_global_generators_are_left_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    same(take(dataset, total_steps=2), take(dataset, total_steps=2, num_workers=1))
    assert (torch.rand(3) == expected).all()


def test_shapes_and_types(dataset):
    batch = take(dataset)[0]
    assert batch["image"].shape == (4, 3, 24, 24) and batch["image"].dtype == torch.uint8
    assert batch["segment"].shape == (4, 24, 24) and batch["segment"].dtype == torch.uint8
    assert batch["index"].shape == (4,) and batch["index"].dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_everything_once_in_order(folder, workers):
    dataset = Shapes("val.lmdb", KEYS, [RandomFlip(KEYS)], str(folder))
    found = list(eval_batches(dataset, 3, workers))
    assert torch.cat([batch["index"] for batch in found]).tolist() == list(range(7))
    same(found, list(eval_batches(dataset, 3)))


def test_entries_per_segment_are_padded():
    samples = [
        {"index": 3, "box": torch.ones(2, 4), "category": torch.tensor([7, 8]), "is_thing": torch.ones(2).bool()},
        {"index": 4, "box": torch.ones(0, 4), "category": torch.zeros(0).long(), "is_thing": torch.zeros(0).bool()},
    ]
    batch = collate(samples)
    assert batch["box"].shape == (2, 2, 4) and batch["box"].sum(dim=(1, 2)).tolist() == [8, 0]
    assert batch["category"].tolist() == [[7, 8], [0, 0]] and batch["index"].tolist() == [3, 4]
    assert batch["is_thing"].tolist() == [[True, True], [False, False]]


def test_entries_per_object_of_videos_are_padded():
    samples = [{"index": n, "box": torch.full((6, n, 4), 1.0), "visibility": torch.full((6, n), 9)} for n in (3, 0, 23)]
    batch = collate(samples)
    assert batch["box"].shape == (3, 6, 23, 4) and batch["visibility"].shape == (3, 6, 23)
    assert batch["box"].sum(dim=(1, 2, 3)).tolist() == [6 * 4 * n for n in (3, 0, 23)]
    assert (batch["visibility"][0, :, :3] == 9).all() and (batch["visibility"][0, :, 3:] == 0).all()


@pytest.mark.parametrize(
    "key, first, second, text",
    [
        ("box", (6, 3, 4), (5, 3, 4), "only the number of objects may differ"),
        ("box", (3, 4), (6, 3, 4), "only the number of objects may differ"),
        ("visibility", (6, 3), (5, 4), "only the number of objects may differ"),
        ("video", (6, 3, 8, 8), (5, 3, 8, 8), "add a Resize"),
        ("depth", (8, 8), (8, 9), "add a Resize"),
    ],
)
def test_all_else_that_differs_is_named(key, first, second, text):
    failure = collate([{"index": 8, key: torch.zeros(first)}, {"index": 9, key: torch.zeros(second)}])
    assert f"samples [8, 9] differ in the size of {key!r}" in failure.message and text in failure.message
    assert all(str(shape) in failure.message for shape in (first, second))


class Draw:
    """Replaces a sample's label map by a drawn number."""

    is_random = True

    def __call__(self, sample, rng):
        return {**sample, "segment": torch.tensor([rng.integers(2**62)])}


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**40), st.integers(0, 3), st.integers(1, 7))
def test_a_draw_depends_on_seed_epoch_and_index_only(folder, seed, epoch, batch_size):
    """Not on the size of batches nor on where a run started; each epoch and each sample has its own."""
    dataset = Shapes("train.lmdb", ["segment"], [Draw()], str(folder))
    dataset.finish = lambda sample: sample
    length = epoch_length(dataset, batch_size)
    start = epoch * length
    drawn = {}
    for step, batch in enumerate(
        batches(dataset, batch_size, seed=seed, start_step=start, total_steps=start + 2 * length), start
    ):
        for index, draw in zip(batch["index"].tolist(), batch["segment"].flatten().tolist(), strict=True):
            drawn[step // length, index] = draw
    assert len(drawn) == 2 * len(dataset) == len(set(drawn.values()))
    for number, index in ((epoch, 0), (epoch + 1, 21)):
        assert drawn[number, index] == np.random.default_rng([seed, number, index, 1]).integers(2**62)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_named(tmp_path, workers):
    convert(tmp_path, 9, 1, size=48)
    file = tmp_path / "train.lmdb"
    content = bytearray(file.read_bytes())
    image = Reader(file).read(6)["image"]
    content[content.find(image) + len(image) // 2] ^= 255
    file.write_bytes(content)
    dataset = Shapes("train.lmdb", KEYS, [], str(tmp_path))
    with pytest.raises(DataError, match=r"^\S+train.lmdb, sample 6: checksum does not match[^\n]*$"):
        list(eval_batches(dataset, 3, workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_different_size_are_named(tmp_path, workers):
    packed = []
    for size in (48, 64):
        convert(tmp_path / str(size), 1, 1, size=size)
        packed.append(pack(Reader(tmp_path / str(size) / "train.lmdb").read(0)))
    write(tmp_path / "a.lmdb", "shapes", packed)
    dataset = Shapes("a.lmdb", KEYS, [], str(tmp_path))
    with pytest.raises(DataError, match=r"samples \[0, 1\] differ in the size of 'image'.*add a Resize"):
        list(eval_batches(dataset, 2, workers))


class Killed:
    """Ends the worker at one sample, as the system does when memory runs out."""

    def __call__(self, sample, rng):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


def test_a_dead_worker_is_one_clear_error(folder):
    dataset = Shapes("train.lmdb", KEYS, [Killed()], str(folder))
    with pytest.raises(DataError, match=r"train.lmdb: a data worker died while samples \[0, 1, 2\] were awaited"):
        list(eval_batches(dataset, 3, 1))


class Broken:
    def __call__(self, sample, rng):
        raise KeyError("bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_keeps_its_traceback_and_names_the_sample(folder, workers):
    dataset = Shapes("val.lmdb", KEYS, [Broken()], str(folder))
    with pytest.raises(KeyError) as caught:
        list(eval_batches(dataset, 3, workers))
    notes = " ".join(getattr(caught.value, "__notes__", []))
    assert "val.lmdb, sample 0" in str(caught.value) + notes


def state(_):
    import cv2

    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN, torch.get_num_threads(), cv2.getNumThreads()


class Ask(Dataset):
    def __init__(self):
        pass

    def __len__(self):
        return 1

    def sample(self, index, rng):
        return {"index": index, "state": torch.tensor(state(None))}


def test_workers_use_one_thread_and_leave_interrupts_to_the_parent(request):
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background job it is ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, found))
    before = state(None)
    (batch,) = eval_batches(Ask(), 1, 1)
    assert batch["state"].tolist() == [[1, 1, 1]]
    assert state(None) == before and not before[0]


def test_wrong_numbers(dataset):
    for options in ({"seed": -1}, {"start_step": -1}):
        with pytest.raises(ValueError, match="at least"):
            take(dataset, **options)
    with pytest.raises(ValueError, match="at least"):
        next(eval_batches(dataset, 0))


def test_ten_thousand_steps_ahead_is_as_any_other(dataset):
    """An epoch's order is that of numpy's generator seeded with (seed, epoch)."""
    batch = next(batches(dataset, 4, seed=9, start_step=6 * 1700 + 2, total_steps=10**5))
    order = np.random.default_rng([9, 1700]).permutation(22)
    assert batch["index"].tolist() == order[8:12].tolist()
