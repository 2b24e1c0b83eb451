"""The cache on disk: what is read is what was written, or nothing."""

import json
import multiprocessing
import os
import time

import pytest
import torch

from object_centric_bench.datum.cache import FACTS, ROWS, Cache, CacheFull

GIGABYTE = 10**9


def write(cache, key, rows, about=None):
    with cache.lock(key), cache.writer(key, len(rows), about or {}) as writer:
        for part in rows.split(2):
            writer.add(part)
        writer.commit()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.uint8])
def test_rows_come_back_bit_by_bit_and_laid_out_as_they_were(tmp_path, dtype):
    cache = Cache(tmp_path / "cache", GIGABYTE)
    rows = torch.arange(5 * 4 * 3 * 2).reshape(5, 4, 3, 2).to(dtype).contiguous(memory_format=torch.channels_last)
    write(cache, "a", rows, {"made of": "numbers"})
    entry = cache.open("a")
    taken = entry.take(torch.tensor([4, 0, 4]))
    assert taken.dtype == dtype and torch.equal(taken, rows[[4, 0, 4]])
    assert taken.stride() == rows[[4, 0, 4]].contiguous(memory_format=torch.channels_last).stride()
    assert entry.about == {"made of": "numbers"}


def test_what_is_taken_may_be_changed_without_changing_the_cache(tmp_path):
    cache = Cache(tmp_path, GIGABYTE)
    write(cache, "a", torch.ones(3, 2))
    entry = cache.open("a")
    entry.take(torch.tensor([0, 1])).zero_()
    assert torch.equal(entry.take(torch.tensor([0, 1, 2])), torch.ones(3, 2))


@pytest.mark.parametrize("damage", ["bit", "short", "facts", "no rows"])
def test_a_damaged_entry_is_removed_and_never_read(tmp_path, damage, caplog):
    cache = Cache(tmp_path, GIGABYTE)
    write(cache, "a", torch.arange(12.0).reshape(3, 4))
    file = tmp_path / "a" / ROWS
    data = bytearray(file.read_bytes())
    if damage == "bit":
        data[17] ^= 1
        file.write_bytes(data)
    elif damage == "short":
        file.write_bytes(data[:-1])
    elif damage == "facts":
        (tmp_path / "a" / FACTS).write_text("{")
    else:
        file.unlink()
    assert cache.open("a") is None
    assert "damaged" in caplog.text and not (tmp_path / "a").exists()
    write(cache, "a", torch.zeros(1, 4))
    assert cache.open("a") is not None


def test_an_entry_that_was_not_finished_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, GIGABYTE)
    with pytest.raises(KeyboardInterrupt), cache.lock("a"), cache.writer("a", 3, {}) as writer:
        writer.add(torch.ones(2, 4))
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="1 rows were added, 3 announced"), cache.writer("a", 3, {}) as writer:
        writer.add(torch.ones(1, 4))
        writer.commit()
    assert cache.open("a") is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_least_recently_used_entry_goes_first(tmp_path):
    cache = Cache(tmp_path, 3 * 4096 + 1000)  # three entries of 4096 bytes and their facts
    rows = torch.zeros(4, 256)
    for age, key in enumerate(["a", "b", "c"]):
        write(cache, key, rows)
        os.utime(tmp_path / key / FACTS, (1000 + age, 1000 + age))
    assert cache.open("a") is not None  # used now
    write(cache, "d", torch.zeros(4, 512))
    assert sorted(path.parent.name for path in tmp_path.glob(f"*/{FACTS}")) == ["a", "d"]


def test_no_room_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    cache = Cache(tmp_path, 1000)
    with pytest.raises(CacheFull, match=r"cache_gigabytes allows 1e-06"), cache.writer("a", 100, {}) as writer:
        writer.add(torch.zeros(1, 256))
    cache = Cache(tmp_path, GIGABYTE)
    free = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    with pytest.raises(CacheFull, match="are free"), cache.writer("a", 100, {}) as writer:
        writer.add(torch.zeros(1, 256))
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_fills_up_while_writing_is_one_message(tmp_path, monkeypatch):
    cache = Cache(tmp_path, GIGABYTE)
    with pytest.raises(CacheFull, match="No space left"), cache.writer("a", 2, {}) as writer:
        writer.add(torch.zeros(1, 4))

        class Full:
            def write(self, data):
                raise OSError(28, "No space left on device")

            def close(self):
                pass

        writer.file.close()
        writer.file = Full()
        writer.add(torch.zeros(1, 4))
    assert cache.open("a") is None and [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheFull, match="nothing can be written"), Cache(tmp_path / "file", GIGABYTE).lock("a"):
        pass


def make_slowly(folder, number, results):
    cache = Cache(folder, GIGABYTE)
    with cache.lock("a"):
        entry = cache.open("a")
        if entry is None:
            time.sleep(0.3)
            with cache.writer("a", 4, {"by": number}) as writer:
                writer.add(torch.full((4, 8), float(number)))
                writer.commit()
            entry = cache.open("a")
    results.put((entry.about["by"], entry.rows.unique().tolist()))


def test_of_several_processes_one_makes_an_entry_and_the_others_read_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=make_slowly, args=(tmp_path, number, results)) for number in (1, 2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1]
    assert found[0][1] == [float(found[0][0])]
    assert json.loads((tmp_path / "a" / FACTS).read_text())["num_rows"] == 4
