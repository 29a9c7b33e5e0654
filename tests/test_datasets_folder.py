"""image_folder: classes, sizes and colours of real image files; what cannot be read is refused by name."""

import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn.datasets import DatasetError, image_folder

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def colour(H=5, W=7):
    return RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)


def test_image_folder_sorts_classes_and_files(tmp_path):
    pixels = {name: save(tmp_path / name, colour()) for name in ("dog/b.png", "cat/z.PNG", "dog/a.bmp", "cat/y.ppm")}
    dataset = image_folder(tmp_path)
    assert dataset.classes == ("cat", "dog") and dataset.name == tmp_path.name
    assert dataset.labels.tolist() == [0, 0, 1, 1] and dataset.images.dtype == np.uint8
    for image, name in zip(dataset.images, ("cat/y.ppm", "cat/z.PNG", "dog/a.bmp", "dog/b.png"), strict=True):
        assert np.array_equal(image.transpose(1, 2, 0), pixels[name])


def test_image_folder_passes_over_other_files(tmp_path):
    save(tmp_path / "cat" / "a.png", colour())
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "._a.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("x")
    assert len(image_folder(str(tmp_path))) == 1


def test_image_folder_gray_and_colour(tmp_path):
    gray = save(tmp_path / "a" / "gray.png", RNG.integers(0, 256, (4, 4), dtype=np.uint8))
    assert np.array_equal(image_folder(tmp_path, gray=True).images, gray[None, None])
    assert np.array_equal(image_folder(tmp_path).images, np.broadcast_to(gray, (1, 3, 4, 4)))
    pixels = save(tmp_path / "b" / "colour.png", colour(4, 4))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(image_folder(tmp_path, gray=True).images[1, 0] - luma).max() <= 1


def test_image_folder_modes(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    picture = Image.fromarray(red)
    (tmp_path / "a").mkdir()
    picture.quantize(4).save(tmp_path / "a" / "palette.png")
    picture.convert("RGBA").save(tmp_path / "a" / "alpha.png")
    picture.convert("CMYK").save(tmp_path / "a" / "cmyk.tif")
    picture.save(tmp_path / "a" / "first.gif", save_all=True, append_images=[Image.fromarray(255 - red)])
    dataset = image_folder(tmp_path)
    assert len(dataset) == 4
    assert np.abs(dataset.images.astype(int) - red.transpose(2, 0, 1)).max() <= 1


def test_image_folder_scales_16_bit_grey(tmp_path):
    values = np.array([[0, 257, 128 * 257], [65535, 129, 128]], np.uint16)
    for name in ("a.png", "b.tif"):
        save(tmp_path / "scan" / name, values)
    for image in image_folder(tmp_path, gray=True).images:
        assert image[0].tolist() == [[0, 1, 128], [255, 1, 0]]


def test_image_folder_refuses_unbounded_pixels(tmp_path):
    save(tmp_path / "a" / "x.tif", np.ones((2, 2), np.float32))
    with pytest.raises(DatasetError, match="x.tif: floating-point pixels have no known range"):
        image_folder(tmp_path)
    save(tmp_path / "a" / "x.tif", np.full((2, 2), 70_000, np.int32))
    with pytest.raises(DatasetError, match="x.tif: pixels run from 70000 to 70000"):
        image_folder(tmp_path)


def test_image_folder_turns_photographs_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    pixels = save(tmp_path / "a" / "photo.png", colour(4, 6), exif=exif)
    assert np.array_equal(image_folder(tmp_path).images[0].transpose(1, 2, 0), np.rot90(pixels, -1))


def test_image_folder_resizes(tmp_path):
    save(tmp_path / "a" / "wide.png", np.full((30, 60), 77, np.uint8))
    save(tmp_path / "a" / "high.png", np.full((9, 4, 3), 99, np.uint8))
    dataset = image_folder(tmp_path, size=(8, 12))
    assert dataset.shape == (3, 8, 12)
    assert np.unique(dataset.images[0]).tolist() == [99] and np.unique(dataset.images[1]).tolist() == [77]
    assert image_folder(tmp_path, size=16, gray=True).shape == (1, 16, 16)


def test_image_folder_of_several_sizes_needs_one(tmp_path):
    save(tmp_path / "a" / "first.png", colour(5, 7))
    save(tmp_path / "a" / "second.png", colour(5, 8))
    with pytest.raises(DatasetError, match=r"second.png: 5x8 pixels where first.png has 5x7; choose one size by size=\(H, W\)"):
        image_folder(tmp_path)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", png_header(5, 7), png_header(2**20, 2**20), b"GIF89a", b"BM" + bytes(40), b"II*\0\x08\0\0\0"],
    ids=["empty", "text", "no_pixels", "bomb", "gif", "bmp", "tiff"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_image_folder_refuses_damaged_files_by_name(tmp_path, content):
    save(tmp_path / "a" / "first.png", colour())
    (tmp_path / "a" / "second.png").write_bytes(content)
    with pytest.raises(DatasetError, match="second.png: not a readable image"):
        image_folder(tmp_path)


def test_image_folder_refuses_folders(tmp_path):
    with pytest.raises(DatasetError, match="image_folder: no folder .*none"):
        image_folder(tmp_path / "none")
    with pytest.raises(DatasetError, match="has no sub-folders; one per class is expected"):
        image_folder(tmp_path)
    save(tmp_path / "full" / "a.png", colour())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty has no images"):
        image_folder(tmp_path)


def test_image_folder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "fastcnn\[data\]"'):
        image_folder(tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    for suffix in ("png", "gif", "bmp", "jpg", "tif"):
        save(folder / suffix / f"a.{suffix}", colour())
    return folder, {path: path.read_bytes() for path in folder.rglob("a.*")}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 4), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
@pytest.mark.filterwarnings("ignore")  # Pillow warns about damage that it can live with
def test_image_folder_damage_raises_nothing_else(scratch, which, where, bit, cut):
    folder, originals = scratch
    path = sorted(originals)[which]
    content = bytearray(originals[path])
    place = int(where * len(content))
    content[place] ^= 1 << bit
    path.write_bytes(content[:place] if cut else content)
    try:
        image_folder(folder, size=4)
    except DatasetError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(originals[path])
