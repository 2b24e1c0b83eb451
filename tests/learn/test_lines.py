"""Files of lines: what a crash left behind is cut off, what a checkpoint knew of stays."""

from object_centric_bench.learn.lines import LineFile


def test_lines_after_the_kept_size_are_dropped(tmp_path):
    file = LineFile(tmp_path / "log", 0)
    file.add(["one", "two"])
    size = file.sync()
    file.add(["three"])
    with (tmp_path / "log").open("a") as opened:
        opened.write("a cut li")
    again = LineFile(tmp_path / "log", size)
    again.add(["3"])
    assert (tmp_path / "log").read_text() == "one\ntwo\n3\n"
    assert again.sync() == len("one\ntwo\n3\n")


def test_a_new_run_begins_with_an_empty_file_and_one_without_record_keeps_whole_lines(tmp_path):
    (tmp_path / "log").write_text("old\ncut")
    LineFile(tmp_path / "log", None)
    assert (tmp_path / "log").read_text() == "old\n"
    LineFile(tmp_path / "log", 0)
    assert (tmp_path / "log").read_text() == ""


def test_a_file_shorter_than_recorded_is_not_filled_up(tmp_path):
    (tmp_path / "log").write_text("one\n")
    LineFile(tmp_path / "log", 100)
    assert (tmp_path / "log").read_text() == "one\n"
