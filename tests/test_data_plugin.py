"""Image folders and digits: layouts, every kind of pixel, damaged files, fingerprints."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlbench.components import Dataset, Problem
from tlbench.errors import BenchmarkError, DataError
from tlbench.evaluation.data import Prepared, held_out_test, load_data
from tlbench.samples.pixels import decode
from tlbench_data import register_datasets
from tlbench_data.images import ImageFolder

REAL = os.environ.get("TLBENCH_REAL_DATA")


def draw(path: Path, shade: int = 0, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), shade).save(path, **options)
    return path


def folder(root: Path, **sizes: int) -> Path:
    """Images `class/0.png`, ..., each of its own shade; `__` in a name stands for `/`."""
    for number, (name, size) in enumerate(sizes.items()):
        for i in range(size):
            draw(root / name.replace("__", "/") / f"{i}.png", 20 * number + i)
    return root


def images(path: Path) -> ImageFolder:
    return ImageFolder().derive(name="mine/photos", path=path, options={})


def decoded(image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return decode(file.getvalue())


# Layouts


def test_a_flat_folder_has_no_split_of_its_own(tmp_path: Path) -> None:
    dataset = images(folder(tmp_path, dog=2, cat=3))
    splits = dataset.load(0)
    assert splits.validation is None
    assert not dataset.has_test
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.ids == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert splits.train.labels == [0, 0, 0, 1, 1]
    assert (splits.train[1] == [21, 0, 0]).all()
    with pytest.raises(DataError, match="has no test/ with images"):
        dataset.load_test(0)


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "validation"), ("training", "valid"), ("Train", "val"), ("TRAINING", "dev"), ("train", "Val")],
)
def test_a_folder_with_splits(tmp_path: Path, train: str, validation: str) -> None:
    sizes = {f"{train}__a": 2, f"{train}__b": 2, f"{validation}__b": 1, "test__a": 3, "extra__c": 4}
    dataset = images(folder(tmp_path, **sizes))
    splits = dataset.load(0)
    assert dataset.has_test
    assert splits.validation is not None
    assert splits.train.ids == [f"{train}/{name}.png" for name in ("a/0", "a/1", "b/0", "b/1")]
    assert (splits.validation.ids, splits.validation.labels) == ([f"{validation}/b/0.png"], [1])
    assert dataset.load_test(0).ids == [f"test/a/{i}.png" for i in range(3)]
    assert dataset.load_test(0).class_names == splits.train.class_names == ("a", "b")


def test_folders_inside_a_class_belong_to_it_and_hidden_ones_do_not(tmp_path: Path) -> None:
    folder(tmp_path, cat=1, cat__kitten__white=1, dog=1, **{".git": 1, "cat__.trash": 1, "notes": 0})
    draw(tmp_path / "dog" / ".hidden.png")
    (tmp_path / "dog" / "notes.txt").write_text("a good dog")
    (tmp_path / "notes").mkdir()
    assert images(tmp_path).load(0).train.ids == ["cat/0.png", "cat/kitten/white/0.png", "dog/0.png"]


def test_a_flat_folder_may_have_a_class_called_train(tmp_path: Path) -> None:
    assert images(folder(tmp_path, bus=2, train=2)).load(0).train.class_names == ("bus", "train")


@pytest.mark.parametrize("extension", ["JPG", "jpeg", "PNG", "bmp", "GIF", "webp", "tif", "TIFF", "ppm", "avif"])
def test_every_usual_extension_in_any_case_is_an_image(tmp_path: Path, extension: str) -> None:
    folder(tmp_path, a=1)
    draw(tmp_path / "b" / f"x.{extension}", 0)
    dataset = images(tmp_path)
    assert dataset.load(0).train.ids == ["a/0.png", f"b/x.{extension}"]
    assert dataset.problems() == ()
    assert dataset.load(0).train[1].shape == (6, 8, 3)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", x=2)
    root = folder(tmp_path / "root", a=1, b=1)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "linked").symlink_to(elsewhere / "x")
    (root / "b" / "again").symlink_to(elsewhere / "x")
    (elsewhere / "x" / "back").symlink_to(root / "b")
    (root / "loop").symlink_to(root)
    (root / "b" / "endless.png").symlink_to(root / "b" / "endless.png")
    (root / "b" / "gone.png").symlink_to(root / "nowhere.png")
    dataset = images(root)
    assert dataset.load(0).train.ids == [
        "a/0.png",
        "b/0.png",
        "b/again/0.png",
        "b/again/1.png",
        "b/endless.png",
        "b/gone.png",
    ]
    assert [problem.sample_id for problem in dataset.problems()] == ["b/endless.png", "b/gone.png"]
    assert all(problem.reason.startswith("cannot be read: ") for problem in dataset.problems())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a file name")
def test_names_that_are_no_unicode_get_an_id_that_is(tmp_path: Path) -> None:
    folder(tmp_path, a=1, b=1)
    draw(tmp_path / "a" / "ete.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xe9t\xe9.png"))
    dataset = images(tmp_path)
    assert dataset.load(0).train.ids[1] == "a/\\udce9t\\udce9.png"
    assert dataset.load(0).train[1].shape == (6, 8, 3)
    assert dataset.fingerprint.startswith("sha256:")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "no class folders with images in .* \\(it has no files\\): train/<class>/ or <class>/ is needed"),
        ({"train": 3}, "no class folders with images in .* \\(3 files: 3 .png\\)"),
        ({"cat": 3}, "has a single class, 'cat'"),
        ({"train__cat": 3, "test__dog": 1}, "has a single class, 'cat'"),
        ({"train__a": 1, "train__b": 1, "test__c": 1}, "class 'c' of the test split in .* has no images to train on"),
        ({"train__a": 1, "train__b": 1, "val__c": 1}, "class 'c' of the validation split in .* has no images"),
        ({"train__a": 1, "train__b": 1, "val__a": 1, "dev__a": 1}, "two folders for its validation split; val/"),
        ({"train__a": 1, "train__b": 1, "test": 2}, "test has images but no class folders: sort them"),
        ({"cat": 2, "dog": 2, "test": 2}, "test has images but no class folders: sort them"),
        ({"test__a": 1, "test__b": 1, "other__a": 1}, "has a test split but no train/<class>/ with images"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_in_one_line(
    tmp_path: Path, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        images(folder(tmp_path, **sizes)).load(0)
    assert str(caught.value).startswith("data set 'mine/photos': ")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_files_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'mine/photos': no folder .*nowhere"):
        images(tmp_path / "nowhere").load(0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "phone.MOV").write_bytes(b"x")
    with pytest.raises(DataError, match=r"\(1 files: 1 .mov\)"):
        images(tmp_path).load(0)
    with pytest.raises(DataError, match="is a file; a folder is needed"):
        images(tmp_path / "a" / "phone.MOV").load(0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is unreadable to this user")
def test_a_folder_that_cannot_be_read_is_not_left_out_silently(tmp_path: Path) -> None:
    folder(tmp_path, a=1, b=1, b__inner=1)
    (tmp_path / "b" / "inner").chmod(0)
    with pytest.raises(DataError, match=r"cannot read the folder .*inner: Permission denied"):
        images(tmp_path).load(0)
    (tmp_path / "b" / "inner").chmod(0o700)


# Declarations


def test_the_template_says_how_to_declare_a_folder() -> None:
    (template,) = (dataset for dataset in register_datasets() if dataset.name == "images")
    asks = (lambda: template.load(0), lambda: template.fingerprint, lambda: template.has_test, template.problems)
    for ask in asks:
        with pytest.raises(BenchmarkError, match=r'\[\[dataset\]\].*base = "data/images", path = "photos"'):
            ask()
    with pytest.raises(BenchmarkError, match="'mine/x': a folder of images needs a path"):
        template.derive(name="mine/x", path=None, options={})
    with pytest.raises(BenchmarkError, match="'mine/x': unknown option 'resize'"):
        template.derive(name="mine/x", path=Path(), options={"resize": 3})


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, tlbench_data; tlbench_data.register_datasets();"
        "heavy = {'numpy', 'PIL', 'sklearn', 'torch', 'scipy', 'pandas', 'pyarrow', 'datasets', 'huggingface_hub'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Pixels


def test_grey_and_colour_keep_their_values() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    assert (decoded(Image.fromarray(pixels)) == pixels).all()
    grey = decoded(Image.fromarray(pixels[..., 0]))
    assert grey.dtype == np.uint8
    assert (grey == pixels[..., :1]).all()
    assert (decoded(Image.fromarray(pixels[..., 0] > 127)) == np.where(pixels[..., :1] > 127, 255, 0)).all()
    grey[0] = 0  # a copy of its own, which augmentation may write to


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    values = np.array([[0, 128, 129, 256, 257 * 100, 65535]], np.uint16)
    result = decoded(Image.fromarray(values), kind)
    assert (result == np.array([0, 0, 1, 1, 100, 255])[None, :, None]).all()


def test_sixteen_bits_of_colour_are_scaled_to_eight() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 257 * 100, 0))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    assert decode(png).tolist() == [[[255, 100, 0]]]


@pytest.mark.parametrize(
    "values", [np.array([[0, 70000]], np.int32), np.array([[-1, 5]], np.int32), np.eye(3, dtype="f4")]
)
def test_pixels_without_a_fixed_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="convert the file to 8 or 16 bits"):
        decoded(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(kind: str) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    result = decoded(Image.fromarray(pixels), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    expected = np.array([[[200, 0, 0], [255, 255, 255], [244, 204, 204]]])
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_grey_with_alpha_and_transparent_palettes_lie_over_white() -> None:
    both = np.array([[[80, 255], [80, 0]]], np.uint8)
    assert decoded(Image.fromarray(both, "LA")).tolist() == [[[80] * 3, [255] * 3]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decoded(palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert decoded(palette, transparency=1).tolist() == [[[10, 20, 30], [255] * 3]]
    assert decoded(palette, transparency=b"\xff\x00").tolist() == [[[10, 20, 30], [255] * 3]]
    assert decoded(palette, "GIF", transparency=1).tolist() == [[[10, 20, 30], [255] * 3]]
    assert decoded(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9)).tolist() == [[[255] * 3]]


def test_printing_colours_become_rgb() -> None:
    assert decoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF").tolist() == [[[255, 0, 0]]]
    assert np.abs(decoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG").astype(int) - [255, 0, 0]).max() < 8


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "TIFF"):
        assert (decoded(frames[0], kind, save_all=True, append_images=frames[1:]) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.kron(np.array([[0, 90], [170, 250], [40, 200]], np.uint8), np.ones((16, 16), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=100, exif=exif)
    assert np.abs(result[..., 0].astype(int) - upright).max() <= 4


# Problems and fingerprints


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60000 x 60000 pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_every_damaged_file_is_a_problem_and_no_other(tmp_path: Path) -> None:
    root = folder(tmp_path, test__a=1, test__b=1, train__a=2, train__b=2)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (root / "train/a/empty.jpg").write_bytes(b"")
    (root / "train/a/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/b/whole.jpg").write_bytes(whole)
    (root / "train/b/text.png").write_text("not an image")
    (root / "train/b/bomb.png").write_bytes(bomb())
    (root / "test/b/header.png").write_bytes((root / "test/b/0.png").read_bytes()[:40])
    dataset = images(root)
    reasons = {problem.sample_id: problem.reason for problem in dataset.problems()}
    assert all(isinstance(problem, Problem) for problem in dataset.problems())
    assert reasons.keys() == {
        "test/b/header.png",
        "train/a/empty.jpg",
        "train/a/truncated.jpg",
        "train/b/bomb.png",
        "train/b/text.png",
    }
    assert reasons["train/a/empty.jpg"] == "empty file"
    assert reasons["train/b/text.png"] == "not an image that Pillow can read"
    assert "truncated" in reasons["train/a/truncated.jpg"]
    assert "decompression bomb" in reasons["train/b/bomb.png"]
    assert images(root).problems() == dataset.problems()
    train = dataset.load(0).train
    with pytest.raises(DataError, match=r"train/b/text\.png does not decode: not an image that Pillow can read"):
        train[list(train.ids).index("train/b/text.png")]
    excluded = frozenset(reasons)
    ids = load_data(dataset, split_seed=0, shots=None, excluded=excluded).train.ids
    assert not excluded & set(ids)


def test_the_fingerprint_is_the_documented_hash(tmp_path: Path) -> None:
    folder(tmp_path, b=1, a=2)
    total = hashlib.sha256()
    for name, label in (("a/0.png", 0), ("a/1.png", 0), ("b/0.png", 1)):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        total.update(f"{name}\x1f{label}\x1f{digest}\n".encode())
    assert images(tmp_path).fingerprint == f"sha256:{total.hexdigest()}"


def test_the_fingerprint_changes_with_the_data_and_with_nothing_else(tmp_path: Path) -> None:
    def root(name: str) -> Path:
        return folder(tmp_path / name, train__a=2, train__b=2, test__a=1)

    original = images(root("original")).fingerprint
    copy = root("copy")
    draw(copy / "train" / "a" / ".hidden.png")
    os.utime(copy / "train" / "a" / "0.png", (1, 1))
    assert images(copy).fingerprint == original
    changed = []
    changes: dict[str, Callable[[Path], object]] = {
        "bytes": lambda path: draw(path / "test/a/0.png", 77),
        "name": lambda path: (path / "train/a/0.png").rename(path / "train/a/9.png"),
        "label": lambda path: (path / "train/a/0.png").rename(path / "train/b/9.png"),
        "more": lambda path: draw(path / "train/a/9.png"),
        "fewer": lambda path: (path / "train/a/1.png").unlink(),
    }
    for name, change in changes.items():
        change(root(name))
        changed.append(images(tmp_path / name).fingerprint)
    assert len({original, *changed}) == 6


def test_the_bytes_are_read_once_for_fingerprint_and_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = images(folder(tmp_path, a=3, b=3))
    read: list[Path] = []
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert (dataset.fingerprint, dataset.problems(), dataset.fingerprint) == (
        dataset.fingerprint,
        (),
        dataset.fingerprint,
    )
    assert len(read) == len(set(read)) == 6


# To the engine


def test_a_class_of_one_image_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    dataset = images(folder(tmp_path, cat=10, dog=1))
    message = "'mine/photos': class 'dog' has 1 image; at least 3 needed \\(training, validation, test\\)"
    asks: list[Callable[[Dataset], object]] = [
        lambda dataset: load_data(dataset, split_seed=0, shots=None),
        lambda dataset: held_out_test(dataset, split_seed=0),
    ]
    for ask in asks:
        with pytest.raises(DataError, match=message):
            ask(dataset)


def test_a_flat_folder_is_split_in_three(tmp_path: Path) -> None:
    dataset = images(folder(tmp_path, cat=10, dog=3))
    data, test = load_data(dataset, split_seed=0, shots=None), held_out_test(dataset, split_seed=0)
    assert [np.bincount(part.labels).tolist() for part in (data.train, data.validation, test)] == [
        [6, 1],
        [2, 1],
        [2, 1],
    ]
    assert {*data.train.ids, *data.validation.ids, *test.ids} == set(dataset.load(0).train.ids)


def check_contract(dataset: Dataset) -> None:
    split = dataset.load(0).train
    sample = split[0]
    assert (sample.dtype, sample.ndim, sample.shape[-1]) == (np.uint8, 3, 3)
    assert len(split) == len(split.ids) == len(split.labels)
    assert dataset.fingerprint == dataset.fingerprint
    assert dataset.modality == "image"
    assert dataset.summary


def test_digits_are_the_ones_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    (dataset,) = (dataset for dataset in register_datasets() if dataset.name == "digits")
    check_contract(dataset)
    split, digits = dataset.load(0).train, load_digits()
    assert (split.ids[0], split.ids[-1], len(split)) == ("digits/0000", "digits/1796", 1797)
    assert split.labels == digits.target.tolist()
    assert list(split.class_names) == list("0123456789")
    for index in (0, 500, 1796):
        assert np.abs(split[index] / 255 - digits.images[index][..., None] / 16).max() <= 0.5 / 255 + 1e-12
    assert max(split[index].max() for index in range(100)) == 255
    assert not dataset.has_test
    assert dataset.derive(name="mine/digits", path=None, options={}).fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match="no test split"):
        dataset.load_test(0)


def test_the_fingerprint_of_digits_does_not_move() -> None:
    """A change of the pixels needs a new version of the data set: it makes stored results questions of other data."""
    (dataset,) = (dataset for dataset in register_datasets() if dataset.name == "digits")
    assert dataset.version == 1
    assert dataset.fingerprint == "sha256:10c571fdd7d97f67ef00731d489efd63292256505bc24d5c7a2d11515afa0c51"


def rotated(**options: Any) -> Dataset:
    (dataset,) = (dataset for dataset in register_datasets() if dataset.name == "digits")
    return dataset.derive(name="mine/rotated", path=None, options=options)


def test_rotated_digits_are_larger_and_turned_each_by_an_angle_of_its_own() -> None:
    dataset, upright = rotated(rotation=45), rotated(rotation=1e-9).load(0).train
    check_contract(dataset)
    split = dataset.load(0).train
    assert split.samples.shape == (1797, 32, 32, 3)
    assert split.labels == upright.labels
    angles = [turn_between(upright[index], split[index]) for index in range(150)]
    assert min(angles) < -35
    assert max(angles) > 35
    assert -46 <= min(angles) <= max(angles) <= 46
    assert abs(float(np.mean(angles))) < 8
    again = rotated(rotation=45)
    assert again.fingerprint == dataset.fingerprint != rotated(rotation=30).fingerprint


def turn_between(upright: np.ndarray, turned: np.ndarray) -> int:
    """Degrees by which `upright` has to be rotated to come closest to `turned`."""
    image = Image.fromarray(upright)
    candidates = range(-60, 61, 3)
    distances = [np.abs(np.asarray(image.rotate(angle), int) - turned.astype(int)).sum() for angle in candidates]
    return candidates[int(np.argmin(distances))]


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"rotation": 181}, None, "from 0 to 180"),
        ({"rotation": "45"}, None, "from 0 to 180"),
        ({"turn": 4}, None, "takes no option 'turn'"),
        ({}, Path("photos"), "takes no path"),
    ],
)
def test_digits_refuse_what_they_cannot_be(options: dict[str, Any], path: Path | None, message: str) -> None:
    (dataset,) = (dataset for dataset in register_datasets() if dataset.name == "digits")
    with pytest.raises(BenchmarkError, match=f"mine/d.*{message}"):
        dataset.derive(name="mine/d", path=path, options=options)


@pytest.mark.skipif(REAL is None, reason="TLBENCH_REAL_DATA is not set")
def test_real_images() -> None:
    dataset = images(Path(REAL or "") / "cifar10-small")
    check_contract(dataset)
    train, test = dataset.load(0).train, dataset.load_test(0)
    assert dataset.load(0).validation is None
    assert np.bincount(train.labels).tolist() == [200] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.class_names[0] == "airplane"
    assert dataset.problems() == ()
    data = load_data(dataset, split_seed=0, shots=5)
    assert np.bincount(data.train.labels).tolist() == [5] * 10
    assert np.bincount(data.validation.labels[data.search]).tolist() == [20] * 10
    prepared = Prepared(data.validation, Identity())  # type: ignore[arg-type]
    assert {array.shape for array in prepared.arrays(range(400))} == {(32, 32, 3)}


class Identity:
    """The part of a preprocessing that `Prepared` needs."""

    def prepare(self, sample: Any) -> np.ndarray:
        array: np.ndarray = sample
        return array
