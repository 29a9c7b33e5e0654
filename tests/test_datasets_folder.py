"""image_folder: classes, sizes and colours of real image files; what cannot be read is refused by name."""

import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import nn
from fastcnn.datasets import (
    Batches,
    Dataset,
    DatasetError,
    LazyImages,
    Prefetch,
    RandomCrop,
    Standardize,
    image_folder,
    save_image_folder,
    split,
    textures,
)  # fmt: skip
from fastcnn.datasets import folder as folder_module
from fastcnn.train import fit

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


# Folders too large for memory


@pytest.fixture
def woven(tmp_path):
    """Twelve generated pictures in six classes, as a folder."""
    made = textures(12, size=24, channels=3, seed=1)
    save_image_folder(made, tmp_path / "woven")
    return made, tmp_path / "woven"


def test_a_saved_dataset_is_read_back(woven):
    made, folder = woven
    read = image_folder(folder)
    assert read.classes == tuple(sorted(made.classes))
    order = np.argsort([read.classes.index(made.classes[label]) for label in made.labels], kind="stable")
    assert np.array_equal(read.images, made.images[order])
    with pytest.raises(ValueError, match="must be uint8 with 1 or 3 channels"):
        save_image_folder(Dataset(np.zeros((1, 2, 3, 3), np.uint8), [0], "a"), folder)


@pytest.mark.parametrize("gray", [False, True])
def test_a_lazy_folder_is_the_same_data(woven, gray):
    _, folder = woven
    whole = image_folder(folder, size=16, gray=gray)
    assert isinstance(image_folder(folder, size=16, gray=gray, max_bytes=whole.images.nbytes).images, np.ndarray)
    lazy = image_folder(folder, size=16, gray=gray, max_bytes=whole.images.nbytes - 1)
    assert isinstance(lazy.images, LazyImages) and lazy.shape == whole.shape and repr(lazy) == repr(whole)
    assert np.array_equal(lazy.images[3], whole.images[3]) and np.array_equal(lazy.images[[4, 1]], whole.images[[4, 1]])
    assert np.array_equal(lazy.map(lambda images: images[:, :1]).images, whole.images[:, :1])
    one, other = (split(dataset, [7, 4], seed=3, stratify=True) for dataset in (lazy, whole))
    for part, same in zip(one, other, strict=True):
        assert isinstance(part.images, LazyImages) and np.array_equal(part.labels, same.labels)
        assert np.array_equal(Standardize.fit(part).mean, Standardize.fit(same).mean)
        for shuffle in (False, True):
            batches = [list(Batches(dataset, 3, shuffle=shuffle, seed=1, transform=Standardize.fit(same))) for dataset in (part, same)]
            assert all(np.array_equal(x, a) and np.array_equal(y, b) for (x, y), (a, b) in zip(*batches, strict=True))


def test_a_lazy_folder_reads_one_batch_at_a_time(woven, monkeypatch):
    _, folder = woven
    read = []
    monkeypatch.setattr(folder_module._Reader, "__call__", lambda self, file: read.append(file) or np.zeros((3, *self.size), np.uint8))
    lazy = image_folder(folder, size=16, max_bytes=0)
    part = lazy[2:9][[0, 3, 5]]
    assert read == []
    batches = iter(Batches(part, 2))
    next(batches)
    assert len(read) == 2
    next(batches)
    assert len(read) == 3


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_lazy_folder_is_read_ahead(woven, depth):
    _, folder = woven
    lazy, whole = (image_folder(folder, size=16, max_bytes=limit) for limit in (0, None))
    augment = [RandomCrop(16, padding=2), Standardize.fit(whole)]
    with Prefetch(Batches(lazy, 5, shuffle=True, seed=2, transform=augment), depth) as ahead:
        batches = list(ahead)
    for (x, y), (a, b) in zip(batches, Batches(whole, 5, shuffle=True, seed=2, transform=augment), strict=True):
        assert np.array_equal(x, a) and np.array_equal(y, b)
    last = max(folder.rglob("*.png"))
    last.write_bytes(last.read_bytes()[:-40])
    with Prefetch(Batches(lazy, 5), depth) as ahead:
        assert len(next(ahead)[1]) == len(next(ahead)[1]) == 5
        with pytest.raises(DatasetError, match=f"{last.name}: not a readable image"):
            next(ahead)


def test_a_lazy_folder_trains_to_the_same_bits(woven):
    _, folder = woven
    seen = []
    for limit, prefetch in ((None, 0), (0, 0), (0, True), (0, 2)):
        data = image_folder(folder, size=16, gray=True, max_bytes=limit)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 6, rng=1))
        history = fit(model, data, data, epochs=2, batch_size=4, transform=Standardize.fit(data), progress=False, prefetch=prefetch)
        seen.append((history["train_loss"], history["val_loss"], [array.tobytes() for array in model.state_dict().values()]))
    assert seen[1:] == seen[:1] * 3


def test_a_lazy_folder_names_the_file_that_is_damaged(woven):
    _, folder = woven
    first, second = sorted(folder.rglob("*.png"))[:2]
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 2])  # the header is whole
    lazy = image_folder(folder, size=16, max_bytes=0)
    with pytest.raises(DatasetError, match=f"{first.name}: not a readable image"):
        next(iter(Batches(lazy, 2)))
    second.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=f"{second.name}: not a readable image"):
        image_folder(folder, size=16, max_bytes=0)
    with pytest.raises(ValueError, match="max_bytes needs size"):
        image_folder(folder, max_bytes=0)


def test_textures_are_a_matter_of_their_seed():
    one, longer, other = textures(6, 20), textures(8, 20), textures(6, 20, seed=1)
    assert one.shape == (1, 20, 20) and one.labels.tolist() == list(range(6)) and longer.labels.tolist()[6:] == [0, 1]
    assert np.array_equal(one.images, longer.images[:6]) and not np.array_equal(one.images, other.images)
    assert len(textures(0, 5)) == 0 and textures(3, 33, channels=3).shape == (3, 33, 33)
    assert (np.ptp(one.images.reshape(6, -1), axis=1) > 60).all()
    for arguments in ((-1,), (1, 0), (1, 8, 2)):
        with pytest.raises(ValueError, match="textures: count must be at least 0"):
            textures(*arguments)
