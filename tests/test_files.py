"""What a program writes is there whole or not at all: kill -9 at any moment, a full disk, several writers at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import checkpoint, datasets, nn, plots
from fastcnn.files import append_line, write_atomically
from fastcnn.train import JsonLines, RunFolder

ROOT = Path(fastcnn.__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and resource limits")


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


SAVE_FOR_EVER = """
import sys
import numpy as np
from fastcnn import checkpoint
print("ready", flush=True)
n = int(sys.argv[2])
while True:
    n += 1
    checkpoint.save(sys.argv[1], {"a": np.full((300, 300), n, np.float32), "b": np.full(7, n)}, {"n": n})
"""


@posix
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.nightly)])
def test_killed_while_saving_there_is_always_a_whole_checkpoint(tmp_path, kills):
    """kill -9 at another moment each time; the file holds one save, the numbers never go back."""
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    path, last = tmp_path / "checkpoint", 0
    for kill in range(kills):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, path, str(last)], env=environment(), stdout=subprocess.PIPE)
        assert process.stdout.readline()
        while not path.exists():  # the first save
            time.sleep(0.001)
        time.sleep(0.0037 * (kill % 29))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arrays, state = checkpoint.load(path)
        assert state["n"] >= last and (arrays["a"] == state["n"]).all() and (arrays["b"] == state["n"]).all()
        last = state["n"]
    assert last >= 2  # else no kill met a save


TRAIN = """
import sys
import numpy as np
import fastcnn
from fastcnn import datasets, nn, optim, schedule
from fastcnn.train import Trainer
folder, steps = sys.argv[1], 60
rng = np.random.default_rng(1)
data = datasets.Dataset(rng.integers(0, 256, (96, 1, 8, 8), dtype=np.uint8), rng.integers(0, 3, 96), ("a", "b", "c"))
transform = [datasets.RandomCrop(8, padding=1), datasets.RandomHorizontalFlip(), datasets.Rescale()]
fastcnn.manual_seed(7)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Dropout(0.2, rng=5), nn.Linear(144, 3))
optimizer = optim.Adam(model.parameters())
trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=schedule.StepLR(optimizer, 2, 0.5))
if len(sys.argv) > 2:
    trainer.resume(f"{folder}/checkpoint")
batches = datasets.Batches(data, 16, shuffle=True, seed=3, transform=transform)
while trainer.iteration < steps:  # a checkpoint at every step
    batches.set_epoch(trainer.epoch)
    for number, (x, y) in enumerate(batches):
        if number < trainer.batch:
            continue
        trainer.step(x, y)
        trainer.batch += 1
        if trainer.batch == len(batches):
            trainer.epoch, trainer.batch = trainer.epoch + 1, 0
            trainer.schedule.step()
        trainer.save(f"{folder}/checkpoint")
        print(trainer.iteration, flush=True)
        if trainer.batch == 0:
            break
fastcnn.checkpoint.save_weights(f"{folder}/weights", model)
""".replace("fastcnn.checkpoint.save_weights", "__import__('fastcnn.checkpoint').checkpoint.save_weights")


def train(folder, *options, kill_after=None):
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", TRAIN, folder, *options], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if kill_after is None:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return (folder / "weights").read_bytes()
    for line in process.stdout:
        if int(line) >= kill_after:
            process.kill()
    process.communicate()
    return None


@posix
@pytest.mark.parametrize("kills", [(5, 23), pytest.param((1, 2, 6, 11, 13, 29, 30, 47), marks=pytest.mark.nightly)])
def test_killed_at_any_step_and_resumed_it_trains_to_the_same_bits(tmp_path, kills):
    """Dropout of the library's generator and of a layer's own, augmentation, Adam, a schedule; killed again and again, within epochs and at their ends."""
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    straight = train(tmp_path / "straight")
    for number, step in enumerate(kills):
        train(tmp_path / "killed", *(["resume"] if number else []), kill_after=step)
    assert not (tmp_path / "killed" / "weights").exists()
    assert train(tmp_path / "killed", "resume") == straight


# A full disk


def figure():
    return plots.curves(fastcnn.train.History([{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": 0.5}]))


def big(value):
    """Content that does not fit into LIMIT bytes."""
    return np.full(40_000, value, np.float32)


def save_checkpoint(path, value):
    pytest.importorskip("safetensors")
    checkpoint.save(path, {"x": big(value)})


def save_weights(path, value):
    pytest.importorskip("safetensors")
    model = nn.Linear(200, 200, bias=False)
    model.weight.data[:] = value
    checkpoint.save_weights(path, model)


def save_text(path, value):
    RunFolder(path.parent).write_text(path.name, f"{value}" * 20_000)


def save_picture(path, value):
    pytest.importorskip("matplotlib")
    plots.save(figure(), path.with_suffix(".png"))


def save_log(path, value):
    JsonLines(path)(None, {"epoch": value, "more": ["x" * 6000] * 5})


def save_images(path, value):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(int(value))
    datasets.save_image_folder(datasets.Dataset(rng.integers(0, 256, (1, 3, 100, 100), dtype=np.uint8), [0], ("a",)), path.with_suffix(".d"))


def save_results(path, value):
    readme = pytest.importorskip("bench.readme", reason="the benchmark suite is not beside the tests")
    readme.save({"kind": "x", "rows": [{"value": value, "text": "y" * 100}] * 500}, path)


def save_readme(path, value):
    readme = pytest.importorskip("bench.readme", reason="the benchmark suite is not beside the tests")
    if not path.exists():
        path.write_text("before <!-- table:start --><!-- table:end --> after")
    readme.replace(path, [f"{value}" * 20_000])


WRITERS = [save_checkpoint, save_weights, save_text, save_picture, save_log, save_images, save_results, save_readme]
LIMIT = 10_000


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@posix
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_full_disk_leaves_the_old_file(tmp_path, write):
    """No file may grow beyond some bytes, as if the disk were full: OSError, the old content, and nothing beside it."""
    import resource

    write(tmp_path / "file", 1)
    before = contents(tmp_path)
    assert before and all(len(content) > LIMIT for content in before.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = LIMIT if write is not save_log else len(before["file"]) + LIMIT  # a log grows
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "file", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before
    write(tmp_path / "file", 3)  # there is room again
    assert contents(tmp_path).keys() == before.keys()


@posix
def test_a_full_disk_leaves_a_run_that_can_be_resumed(tmp_path):
    import resource

    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    x, y = np.random.default_rng(0).standard_normal((32, 1, 9, 9)).astype(np.float32), np.arange(32) % 3
    model = nn.Sequential(nn.Conv2d(1, 16, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3, rng=1))
    trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), fastcnn.optim.Adam(model.parameters()))
    fastcnn.fit(trainer, (x, y), epochs=1, progress=False, out=tmp_path)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            fastcnn.fit(trainer, (x, y), epochs=2, progress=False, out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before
    trainer.resume(tmp_path / "checkpoint.safetensors")
    assert trainer.epoch == 1


# The two ways to write


def test_write_atomically_follows_links_and_leaves_devices(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    write_atomically(real, b"one")
    link.symlink_to(real)
    write_atomically(link, b"two")
    assert link.is_symlink() and real.read_bytes() == b"two"
    write_atomically(os.devnull, b"nothing")
    assert not Path(os.devnull).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "none" / "file", b"x")
    with pytest.raises(OSError):
        write_atomically(tmp_path, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_several_threads_write_one_file(tmp_path):
    contents = [bytes([65 + i]) * 50_000 for i in range(4)]
    seen, over = set(), threading.Event()
    write_atomically(tmp_path / "file", contents[0])

    def write(content):
        for _ in range(20):
            write_atomically(tmp_path / "file", content, flush=False)

    def read():
        while not over.is_set():
            seen.add((tmp_path / "file").read_bytes())

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    reader.join()
    assert seen <= set(contents) and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_lines_are_added_whole(tmp_path):
    path = tmp_path / "log"
    append_line(path, "one")
    append_line(path, "é")
    assert path.read_text(encoding="utf-8") == "one\né\n"
    with open(path, "ab") as file:
        file.write(b'{"half": ')  # a line that does not end stays by itself
    JsonLines(path)(None, {"epoch": 3})
    assert path.read_text(encoding="utf-8").splitlines() == ["one", "é", '{"half": ', json.dumps({"epoch": 3})]
