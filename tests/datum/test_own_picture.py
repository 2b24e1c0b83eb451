"""Pictures as people have them: rotated, grey, transparent, CMYK, 16 bits, damaged."""

import struct

import numpy as np
import pytest
from PIL import Image

from object_centric_bench.datum.own_picture import find_files, read_frames, read_picture
from object_centric_bench.datum.record import DataError

RNG = np.random.default_rng(0)
SQUARES = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 24x32, flat for JPEG


def test_orientation_of_a_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # hold the camera upright: turn by 90 degrees to the right
    Image.fromarray(SQUARES).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.rot90(SQUARES, k=-1))


def test_grey_palette_and_sixteen_bits_become_rgb(tmp_path):
    grey = SQUARES[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(SQUARES).quantize(12).save(tmp_path / "palette.png")
    for name in ("grey", "wide"):
        assert np.array_equal(read_picture(tmp_path / f"{name}.png"), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read_picture(tmp_path / "palette.png"), SQUARES)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.zeros((24, 32, 1), np.uint8)
    alpha[:, 16:] = 255
    Image.fromarray(np.concatenate([SQUARES, alpha], axis=2)).save(tmp_path / "a.png")
    read = read_picture(tmp_path / "a.png")
    assert (read[:, :16] == 255).all() and np.array_equal(read[:, 16:], SQUARES[:, 16:])


def test_cmyk_is_converted(tmp_path):
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    red.save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() < 12


def test_large_pictures_are_read_without_a_warning(tmp_path, recwarn):
    Image.new("L", (10_000, 9_000)).save(tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png").shape == (9_000, 10_000, 3)
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_pictures_in_a_file_the_first_is_read_which_is_said(tmp_path, caplog, suffix):
    file = tmp_path / f"a.{suffix}"
    first, *more = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red"))
    first.save(file, save_all=True, append_images=more)
    assert read_picture(file).min() > 250
    assert f"a.{suffix} holds 3 pictures: only the first is used" in caplog.text


def test_pictures_that_are_too_large_are_named_in_plain_words(tmp_path):
    Image.new("1", (14_000, 13_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png has more than 179 megapixels: scale it down"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("kind", ["missing", "cut", "text", "float"])
def test_bad_pictures_are_named(tmp_path, kind):
    file = tmp_path / "a.tif"
    if kind == "cut":
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "a.png")
        file = tmp_path / "cut.png"
        file.write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    elif kind == "text":
        file.write_text("no picture")
    elif kind == "float":
        Image.fromarray(np.zeros((4, 4), np.float32)).save(file)
    with pytest.raises(DataError, match=file.name):
        read_picture(file)


def test_files_are_found_in_folders_and_by_patterns(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file.name for file in find_files([str(tmp_path)])]
    assert names == ["a.JPG", "b.png", "c.mp4"]
    assert [file.name for file in find_files([str(tmp_path / "**" / "*.mp4"), str(tmp_path / "b.png")])] == [
        "c.mp4",
        "b.png",
    ]
    with pytest.raises(DataError, match=r"none\.png"):
        find_files([str(tmp_path / "none.png")])


def test_a_video_of_a_phone_held_upright_is_turned(tmp_path):
    """The turn is written into the matrix of the track's header, as phones do; no muxer of PyAV writes one."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 255  # the left half, which is the upper one after a quarter to the right
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    assert next(read_frames(tmp_path / "a.mp4")).shape == (48, 64, 3)
    (frame,) = read_frames(tmp_path / "turned.mp4")
    assert frame.shape == (64, 48, 3)
    assert frame[:28].min() > 200 and frame[36:].max() < 50


def test_a_damaged_video_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match=r"a\.mp4 cannot be read as a video"):
        next(read_frames(tmp_path / "a.mp4"))
