"""Decoding of image files, good and bad, and the lazily decoded folder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.data.formats import images
from sidedoor.data.formats.images import FolderDataset, Frame, Limits, Unreadable, class_files, gather, pixels
from sidedoor.errors import CannotComplete, ConfigError

HEADERS_ONLY = Limits(verify=0)


def picture(seed: int = 0, height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels)[: 3 if channels > 1 else 2], np.uint8)


def save(path: Path, array: np.ndarray, form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, form)
    return path


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of the given rows, each with its filter in front, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body))
            + chunk(b"IEND", b""))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises many pixels and whose body has few bytes."""
    return png(width, height, bytes(1000))


def taller(jpeg: bytes, height: int) -> bytes:
    """A JPEG whose header says another height."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">H", height) + jpeg[at + 7 :]


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM"])
def test_lossless_formats_are_decoded_bit_by_bit(form: str, tmp_path: Path) -> None:
    colour, grey = picture(), picture(channels=1)
    for array, channels in ((colour, 3), (grey, 1)):
        decoded = pixels(save(tmp_path / "any name", array, form), channels)
        assert np.array_equal(decoded, array.reshape(12, 16, channels).transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_formats_are_decoded(form: str, tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    decoded = pixels(save(tmp_path / "a", smooth, form), 3)
    assert decoded.shape == (3, 48, 64)
    assert np.abs(decoded.astype(int) - smooth.transpose(2, 0, 1)).max() < 20


def test_grey_and_colour_are_turned_into_each_other(tmp_path: Path) -> None:
    grey = picture(channels=1)
    as_colour = pixels(save(tmp_path / "g.png", grey), 3)
    assert all(np.array_equal(channel, grey) for channel in as_colour)
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert np.unique(pixels(save(tmp_path / "r.png", red), 1)).tolist() == [76]  # 0.299 · 255, ITU-R 601


def test_transparency_is_dropped_in_true_colour_and_palettes(tmp_path: Path) -> None:
    colour = np.dstack([picture(), np.full((12, 16), 7, np.uint8)])
    assert np.array_equal(pixels(save(tmp_path / "a.png", colour), 3), colour[..., :3].transpose(2, 0, 1))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=b"\x00\x05")
    assert pixels(tmp_path / "p.png", 3)[:, 0, 0].tolist() == [10, 20, 30]


def test_orientation_tags_are_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert pixels(tmp_path / "a.png", 3).shape == (3, 12, 16)


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = pixels(save(tmp_path / "a.png", board), 1, (8, 8))
    assert small.shape == (1, 8, 8)
    assert np.abs(small.astype(int) - 127).max() <= 2


def test_16_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((4, 4), 1000, np.uint16))
    with pytest.raises(Unreadable, match="8 bits a channel"):
        pixels(tmp_path / "a.png", 1)


@pytest.mark.parametrize(("content", "reason"), [
    (png(2, 2, bytes(14) * 2, 16, 2), "more than 8 bits"),
    (b"P6 2 2 65535\n" + bytes(24), "more than 8 bits"),
    (png(4, 2, bytes(10), 8, 3), "a palette, which it does not have"),
    (png(4, 3, bytes(10)), "fewer pixels than its header says"),
    (png(6000, 6000, bytes(10)), "fewer pixels than its header says"),
    (png(1, 70_000, bytes(140_000)), "a side has at most 65,535"),
])
def test_images_that_would_be_misread_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        pixels(tmp_path / "a", 3)


def test_images_that_only_look_so_are_read(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes(9))
    for content in (png(4, 2, bytes(10)), png(4, 2, bytes(10), 8, 3, palette), b"P6 2 2 255\n" + bytes(12),
                    b"P5 2 2 15\n" + bytes(4)):
        (tmp_path / "a").write_bytes(content)
        assert not pixels(tmp_path / "a", 1).any()


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_false_height_of_a_jpeg_is_found(options: dict[str, int], tmp_path: Path) -> None:
    edge = np.full((32, 32, 3), 255, np.uint8)
    edge[4:28, 4:28] = picture(0, 24, 24)
    for image in (picture(1, 32, 32), edge, picture(2, 30, 30, channels=1)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", **options)
        (tmp_path / "a").write_bytes(buffer.getvalue())
        assert pixels(tmp_path / "a", 3).shape == (3, *image.shape[:2])
        for height in (41, 2000):
            (tmp_path / "a").write_bytes(taller(buffer.getvalue(), height))
            with pytest.raises(Unreadable, match="fewer pixels"):
                pixels(tmp_path / "a", 3)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(Unreadable, match="no regular file"):
        pixels(tmp_path / "a.png", 3)


def test_an_image_above_the_pixel_limit_is_not_decoded(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    assert pixels(tmp_path / "a.png", 3, limit=12 * 16).shape == (3, 12, 16)
    with pytest.raises(Unreadable, match="16×12 pixels"):
        pixels(tmp_path / "a.png", 3, limit=12 * 16 - 1)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_an_image_or_unreadable(data: st.DataObject,
                                                      tmp_path_factory: pytest.TempPathFactory) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "PPM", "WEBP"]))
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, form)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(Unreadable):
        assert pixels(path, 3, (8, 8), limit=10_000).shape == (3, 8, 8)


def build(top: Path, classes: int = 2, count: int = 6, size: int = 8) -> list[tuple[str, int]]:
    """Class folders of PNG files; the pixels of file i of class k are seeded by 100 k + i."""
    for k in range(classes):
        for i in range(count):
            save(top / f"c{k}" / f"{i}.png", picture(100 * k + i, size, size))
    return [(f"c{k}/{i}.png", k) for k in range(classes) for i in range(count)]


BAD = {
    "truncated.jpg": ("truncated", None),
    "text.png": ("not a PNG, JPEG, BMP, PPM, WEBP image", b"just some text"),
    "empty.png": ("not a PNG, JPEG, BMP, PPM, WEBP image", b""),
    "bomb.png": ("DecompressionBombError", png_of_size(30_000, 30_000)),
    "big.png": ("8000×8000 pixels; at most 40 million", png_of_size(8_000, 8_000)),
    "moving.gif": ("not a PNG, JPEG, BMP, PPM, WEBP image", None),
    "gif called.png": ("not a PNG, JPEG, BMP, PPM, WEBP image", None),
}


def add_bad(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(picture(1, 64, 64)).save(buffer, "JPEG")
    gif = io.BytesIO()
    Image.fromarray(picture(1)).save(gif, "GIF")
    made = {"truncated.jpg": buffer.getvalue()[:-400], "moving.gif": gif.getvalue(), "gif called.png": gif.getvalue()}
    for name, (_, content) in BAD.items():
        (folder / name).write_bytes(content if content is not None else made[name])


def test_bad_files_are_quarantined_by_name_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = build(tmp_path)
    add_bad(tmp_path / "c1")
    with caplog.at_level(logging.WARNING, "sidedoor"):
        data = FolderDataset(tmp_path, files + [(f"c1/{name}", 1) for name in BAD], ("c0", "c1"))
    assert data.files == tuple(name for name, _ in files)
    reasons = dict(data.quarantined)
    assert reasons.keys() == {f"c1/{name}" for name in BAD}
    for name, (reason, _) in BAD.items():
        assert reason in reasons[f"c1/{name}"]
        assert any(name in record.getMessage() for record in caplog.records)


def test_rows_are_decoded_when_asked_for_and_only_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"), limits=HEADERS_ONLY)
    decoded: list[str] = []

    def counted(file: Path, *arguments: object) -> np.ndarray:
        decoded.append(file.relative_to(tmp_path).as_posix())
        return pixels(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "pixels", counted)
    assert decoded == []
    x, y, index = data.fetch(torch.tensor([7, 0, 3]))
    assert sorted(decoded) == ["c0/0.png", "c0/3.png", "c1/1.png"]
    expected = np.stack([picture(seed, 8, 8).transpose(2, 0, 1) for seed in (101, 0, 3)])
    assert torch.equal((x * 255).round().to(torch.uint8), torch.from_numpy(expected))
    assert (y.tolist(), index.tolist()) == ([1, 0, 0], [7, 0, 3])
    assert data.lazy
    data.rows(torch.tensor([7]))
    assert len(decoded) == 4  # nothing was kept


def test_many_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    single = torch.cat([data.rows(torch.tensor([k])) for k in range(12)])
    asked = torch.randint(0, 12, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.rows(asked), single[asked])


def test_a_file_that_is_changed_after_it_was_hashed_is_not_shown(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    data.fingerprint()
    data.rows(torch.arange(12))
    save(tmp_path / "c0" / "3.png", picture(9, 8, 8))
    with pytest.raises(CannotComplete, match=r"3\.png was changed"):
        data.rows(torch.arange(12))


def test_sizes_that_differ_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = build(tmp_path)
    assert FolderDataset(tmp_path, files, ("c0", "c1")).resized == ""
    assert FolderDataset(tmp_path, files, ("c0", "c1"), Frame(8)).resized == ""
    assert FolderDataset(tmp_path, files, ("c0", "c1"), Frame(16)).resized == "8×8"
    save(tmp_path / "c0" / "0.png", picture(0, 20, 30))
    data = FolderDataset(tmp_path, files, ("c0", "c1"))
    assert data.shape == (3, 32, 32)
    said = "2 different sizes, from 8×8 to 20×30 pixels (height × width)"
    assert Subset(data, torch.arange(2)).resized == data.resized == said
    assert said in caplog.text
    assert FolderDataset(tmp_path, files, ("c0", "c1"), Frame(16)).resized == said


def test_no_pixels_are_held(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    data.rows(torch.arange(12))
    held = [value for value in vars(data).values() if isinstance(value, torch.Tensor | np.ndarray)]
    assert sum(tensor.nbytes for tensor in held) == 12 * 8  # the labels


def test_no_rows_are_an_empty_batch(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    assert data.rows(torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 8, 8)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def test_damage_behind_the_header_of_a_small_set_is_found_at_the_start(tmp_path: Path) -> None:
    files = build(tmp_path)
    truncate(tmp_path / "c0/2.png")
    assert dict(FolderDataset(tmp_path, files, ("c0", "c1")).quarantined).keys() == {"c0/2.png"}
    assert FolderDataset(tmp_path, files, ("c0", "c1"), limits=HEADERS_ONLY).quarantined == ()  # the premise below


def test_damage_found_while_running_is_replaced_by_the_next_of_the_class(tmp_path: Path,
                                                                         caplog: pytest.LogCaptureFixture) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"), limits=HEADERS_ONLY)
    truncate(tmp_path / "c0/5.png")  # the last of its class: the next is the first
    (tmp_path / "c0/0.png").unlink()
    truncate(tmp_path / "c0/2.png")
    asked, shown = torch.tensor([5, 6, 0, 2]), (1, 100, 1, 3)
    with caplog.at_level(logging.WARNING, "sidedoor"):
        rows = data.rows(asked)
    assert torch.equal(rows, torch.stack([torch.from_numpy(picture(k, 8, 8).transpose(2, 0, 1)) for k in shown]))
    assert dict(data.quarantined).keys() == {"c0/0.png", "c0/2.png", "c0/5.png"}
    assert len(data) == 12
    assert torch.equal(data.rows(asked), rows)
    assert len(caplog.records) == 3  # each is told once


def test_a_file_that_was_replaced_stays_so(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    whole = (tmp_path / "c0/2.png").read_bytes()
    truncate(tmp_path / "c0/2.png")
    first = data.rows(torch.tensor([2]))
    (tmp_path / "c0/2.png").write_bytes(whole)
    assert torch.equal(data.rows(torch.tensor([2])), first)


def test_a_class_that_is_lost_while_running_ends_the_run_with_its_name(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path, count=2), ("c0", "c1"))
    for file in ("c1/0.png", "c1/1.png"):
        (tmp_path / file).unlink()
    with pytest.raises(CannotComplete, match="no readable image is left in class 'c1'"):
        data.rows(torch.tensor([3]))


def test_a_class_without_a_readable_file_is_refused(tmp_path: Path) -> None:
    files = build(tmp_path)
    (tmp_path / "c2").mkdir()
    (tmp_path / "c2" / "0.png").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"class dog \(c2/0.png: not a PNG"):
        FolderDataset(tmp_path, [*files, ("c2/0.png", 2)], ("cat", "cow", "dog"))
    with pytest.raises(ConfigError, match="no readable image in it"):
        FolderDataset(tmp_path, [], ())


def test_the_frame_follows_the_files_unless_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [("a/0.png", 0), ("a/1.png", 0)]
    save(tmp_path / "a/0.png", picture(0, 10, 20, 1))
    save(tmp_path / "a/1.png", picture(1, 10, 20, 1))

    def shape(frame: Frame) -> tuple[int, ...]:
        data = FolderDataset(tmp_path, files, ("a",), frame)
        assert data.rows(torch.tensor([0])).shape[1:] == data.shape
        return data.shape

    assert shape(Frame()) == (1, 10, 20)
    assert shape(Frame(size=6)) == (1, 6, 6)
    assert shape(Frame(channels=3)) == (3, 10, 20)
    save(tmp_path / "a/1.png", picture(1, 11, 20, 3))
    assert caplog.records == []
    with caplog.at_level(logging.WARNING, "sidedoor"):
        assert shape(Frame()) == (3, 32, 32)
    assert "2 different sizes" in caplog.text


def test_the_fingerprint_follows_names_labels_content_and_shape(tmp_path: Path) -> None:
    files = build(tmp_path)

    def fingerprint(files: list[tuple[str, int]] = files, size: int | None = None, content: int = 2**30) -> str:
        return FolderDataset(tmp_path, files, ("c0", "c1"), Frame(size), Limits(content=content)).fingerprint()

    first, by_length = fingerprint(), fingerprint(content=0)
    relabelled = fingerprint([("c0/0.png", 1), *files[1:]])
    assert len({first, by_length, relabelled, fingerprint(size=5), fingerprint(files[1:])}) == 5
    path = tmp_path / "c0/3.png"
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # the last byte belongs to a checksum that Pillow passes over
    assert fingerprint() != first
    assert fingerprint(content=0) == by_length


def test_gather_holds_the_same_rows_in_memory_or_mapped(tmp_path: Path) -> None:
    data = FolderDataset(tmp_path, build(tmp_path), ("c0", "c1"))
    held, mapped = gather(data, "a"), gather(data, "a", limit=10)
    assert isinstance(held, ArrayDataset)
    assert isinstance(mapped.images, np.memmap)
    everything = torch.arange(12)
    assert torch.equal(held.rows(everything), data.rows(everything))
    assert torch.equal(mapped.rows(everything), data.rows(everything))
    assert torch.equal(held.targets, data.targets)


def test_class_files_are_sorted_and_pass_over_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b/2.png", "b/10.JPG", "b/deep/er/1.webp", "a/x.gif", "a/notes.txt", "a/.hidden.png", ".git/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loose.png").touch()
    with caplog.at_level(logging.INFO, "sidedoor"):
        found = class_files(tmp_path, tmp_path)
    assert list(found) == ["a", "b"]
    assert found == {"a": ["a/x.gif"], "b": ["b/10.JPG", "b/2.png", "b/deep/er/1.webp"]}
    assert class_files(tmp_path, tmp_path.parent)["a"] == [f"{tmp_path.name}/a/x.gif"]
    assert "notes.txt" in caplog.text


def test_a_folder_without_classes_or_with_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no class folders"):
        class_files(tmp_path, tmp_path)
    build(tmp_path)
    (tmp_path / "z").mkdir()
    with pytest.raises(ConfigError, match="no image file in class z"):
        class_files(tmp_path, tmp_path)


def test_links_may_not_lead_elsewhere(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    build(top)
    build(outside)
    (top / "c0" / "inside.png").symlink_to(top / "c1" / "0.png")
    assert len(class_files(top, top)["c0"]) == 7
    for link, target in (("c0/file.png", "c1/0.png"), ("c0/folder", "c1"), ("c9", "c1")):
        (top / link).symlink_to(outside / target)
        with pytest.raises(ConfigError, match=f"{link} is a link to {outside / target}"):
            class_files(top, top)
        (top / link).unlink()
    (top / "c0" / "loop").symlink_to(top)
    with pytest.raises(ConfigError, match="loop is a link"):
        class_files(top, top)


def test_a_pipe_that_calls_itself_an_image_does_not_hang(tmp_path: Path) -> None:
    build(tmp_path)
    os.mkfifo(tmp_path / "c0" / "pipe.png")
    assert len(class_files(tmp_path, tmp_path)["c0"]) == 6
