"""The command line: what each command prints, exit codes, one clear line for each thing a user can get wrong, Ctrl-C."""

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import backend as backends
from fastcnn import checkpoint, datasets, recipes
from fastcnn.cli import _RECIPE_OPTIONS, main
from fastcnn.train import compare_step_times

pytest.importorskip("safetensors", reason="the extra `train` is not installed")
PACKAGE_PARENT = Path(__file__).parent.parent
CPU = backends.available()["cpu"]


@pytest.fixture(autouse=True)
def keep_backend():
    """--backend sets the backend of the whole process; a test gives it back."""
    before = backends.current().name
    yield
    backends.set_backend(before)


@pytest.fixture(autouse=True, scope="module")
def short_comparison():
    """Three pairs of steps are enough to see that they are measured and printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastcnn.recipes.run.compare_step_times", functools.partial(compare_step_times, max_rounds=1))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of two epochs."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "lenet", "--epochs", "2", "--seed", "1", "--out", str(path), "--quiet"]) == 0
    return path


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # argparse
        code = exit.code
    out, err = capsys.readouterr()
    return code, out, err


# Training


def test_train_says_what_it_did_and_where_the_files_are(tmp_path, capsys):
    code, out, err = run(capsys, "train", "lenet", "--epochs", 1, "--out", tmp_path / "run")
    assert code == 0
    assert "test accuracy" in out and "355 images of digits" in out and "per class: 0 " in out
    assert "weights.safetensors" in out and str(tmp_path / "run") in out and "converges in 1 of 14 runs" in out
    assert "epoch 1/1: train_loss" in err and "lenet: LeNet" in err and "Traceback" not in err
    if backends.current().name == "reference":
        assert "reference backend is the active one" in out
    else:
        assert "times faster" in out and "thread" in out


def test_quiet_has_no_progress_and_json_is_json(tmp_path, capsys):
    code, out, err = run(capsys, "train", "lenet", "--epochs", 1, "--out", tmp_path / "run", "--quiet", "--json")
    content = json.loads(out)
    assert code == 0 and err == "" and content["epochs"] == 1 and content["test_images"] == 355
    assert content == json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_the_default_folder_is_named_after_recipe_and_time(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(capsys, "train", "lenet", "--epochs", 1, "--quiet")[0] == 0
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(found) == 2 and all(name.startswith("lenet-20") for name in found)


def test_options_reach_the_run(tmp_path, capsys):
    arguments = ["--epochs", 1, "--batch-size", 100, "--lr", 0.01, "--seed", 7, "--data", "digits", "--backend", "reference", "--quiet"]
    code, out, _ = run(capsys, "train", "lenet-mnist", *arguments, "--out", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert code == 0 and config["recipe"] == "lenet" and config["backend"] == "reference"
    assert config["options"] == {"data": "digits", "epochs": 1, "batch_size": 100, "lr": 0.01, "seed": 7}


@pytest.mark.skipif(CPU is not None, reason=f"the cpu backend cannot be used: {CPU}")
def test_threads(tmp_path, capsys):
    before = backends.get_num_threads()
    try:
        code, out, _ = run(capsys, "train", "lenet", "--epochs", 1, "--backend", "cpu", "--threads", 1, "--quiet", "--json", "--out", tmp_path / "run")
        assert code == 0 and json.loads(out)["step_times"]["threads"] == 1
    finally:
        backends.set_num_threads(before)


def test_resume_of_a_finished_run_reports_again(folder, capsys):
    weights = (folder / "weights.safetensors").read_bytes()
    code, out, _ = run(capsys, "train", "lenet", "--resume", folder, "--quiet")
    assert code == 0 and "after 2 epochs" in out and (folder / "weights.safetensors").read_bytes() == weights


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    """A real process and a real signal: exit code 130, and the resumed run ends like an uninterrupted one."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastcnn", "train", "lenet", "--epochs", "12", "--batch-size", "16"]  # not over before the signal is there
    process = subprocess.Popen([*command, "--out", "halted"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "halted" / "checkpoint.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    last = err.strip().splitlines()[-1]
    assert process.returncode == 130 and "Traceback" not in err
    assert last.startswith("fastcnn: interrupted in epoch") and last.endswith("fastcnn train lenet --resume halted")
    assert not (tmp_path / "halted" / "weights.safetensors").exists()
    subprocess.run([*command[:5], "--resume", "halted", "--quiet"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    subprocess.run([*command, "--out", "straight", "--quiet"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "halted" / "weights.safetensors").read_bytes() == (tmp_path / "straight" / "weights.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("epochs_done", [1, 4])
def test_a_killed_run_has_its_last_checkpoint_and_goes_on_to_the_same_bits(tmp_path, epochs_done):
    """kill -9, which no program can catch, somewhere in an epoch: the state of the epoch before is whole on the disk."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastcnn", "train", "lenet", "--epochs", "12", "--batch-size", "16", "--quiet"]
    process = subprocess.Popen(
        [*command, "--out", "killed", "--json-log"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(epochs_done + 1):  # a line is written before its epoch's checkpoint: one more, and those before are there
        assert process.stdout.readline(), process.stderr.read()
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "weights.safetensors").exists()
    arrays, state = checkpoint.load(tmp_path / "killed" / "checkpoint.safetensors")  # checks every byte
    assert arrays and epochs_done <= state["position"]["epoch"] < 12
    (tmp_path / "killed" / ".weights.safetensors.1.part").write_bytes(b"what a kill within a write leaves")
    subprocess.run([*command[:5], "--resume", "killed", "--quiet"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    subprocess.run([*command, "--out", "straight"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "killed" / "weights.safetensors").read_bytes() == (tmp_path / "straight" / "weights.safetensors").read_bytes()
    assert not list((tmp_path / "killed").glob(".*"))


# Using a run


def test_evaluate(folder, capsys):
    code, out, _ = run(capsys, "evaluate", folder)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "lenet on the test set of digits: 355 images" and lines[1].startswith("accuracy ")
    assert len(lines) == 14 and lines[3].split() == list("0123456789") and lines[4].split()[0] == "0"
    assert sum(int(cell) for line in lines[4:] for cell in line.split()[1:]) == 355
    code, out, _ = run(capsys, "evaluate", folder, "--json")
    assert json.loads(out)["test_accuracy"] == json.loads((folder / "metrics.json").read_text())["test_accuracy"]


def test_predict(folder, capsys, tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="the extra `data` is not installed")
    test = datasets.digits().test
    large = np.kron(test.images[0, 0], np.ones((9, 9), np.uint8))
    image_module.fromarray(large).save(tmp_path / "dark.png")
    image_module.fromarray(255 - large).convert("RGB").save(tmp_path / "bright.jpg", quality=95)
    code, out, err = run(capsys, "predict", folder, tmp_path / "dark.png", "--top", 2, "--json")
    (answer,) = json.loads(out)
    assert code == 0 and err == "" and len(answer["classes"]) == 2
    assert answer["classes"][0]["probability"] >= answer["classes"][1]["probability"]
    code, out, err = run(capsys, "predict", folder, tmp_path / "dark.png", tmp_path / "bright.jpg")
    assert code == 0 and len(out.splitlines()) == 2 and "bright.jpg has a bright ground" in err and "dark.png has" not in err
    code, out, err = run(capsys, "predict", folder, tmp_path / "bright.jpg", "--invert", "--top", 1)
    assert err == "" and out.split(": ")[1].split()[0] == answer["classes"][0]["class"]


def test_features_are_pictured_layer_by_layer(folder, capsys, tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="the extra `data` is not installed")
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    image_module.fromarray(np.kron(datasets.digits().test.images[0, 0], np.ones((9, 9), np.uint8))).save(tmp_path / "digit.png")
    code, out, err = run(capsys, "features", folder, tmp_path / "digit.png", "--out", tmp_path / "maps")
    lines = out.splitlines()
    assert code == 0 and err == "" and len(lines) == 15 and lines[2].split()[:3] == ["0", "Conv2d", "6x28x28"]
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["00-conv2d.png", "01-maxpool2d.png", "02-relu.png", "03-conv2d.png", "04-maxpool2d.png", "05-relu.png", "features.png"]
    code, out, _ = run(capsys, "features", folder, tmp_path / "digit.png", "--out", tmp_path / "maps", "--json")
    content = json.loads(out)
    assert len(content["layers"]) == 12 and content["layers"][2]["kind"] == "ReLU" and content["layers"][2]["min"] == 0
    expected = json.loads(run(capsys, "predict", folder, tmp_path / "digit.png", "--top", 1, "--json")[1])[0]["classes"][0]
    assert expected == {"class": content["class"], "probability": content["probability"]}


def test_speed_of_a_run_and_of_a_recipe(folder, capsys):
    code, out, _ = run(capsys, "speed", "lenet", "--batch", 1, 8, "--seconds", 0)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("lenet, 1x32x32, inference on") and [line.split()[:2] for line in lines[2:]] == [["1", "5"], ["8", "5"]]
    (speed,) = json.loads(run(capsys, "speed", folder, "--batch", 4, "--seconds", 0.01, "--json")[1])["speeds"]
    assert speed["batch"] == 4 and 0 < speed["ms_min"] <= speed["ms_median"] and speed["passes"] >= 5
    assert speed["images_per_second"] == pytest.approx(4000 / speed["ms_median"]) and speed["images_per_second_best"] >= speed["images_per_second"]


def test_summary_recipes_info(capsys):
    code, out, _ = run(capsys, "summary", "lenet")
    assert code == 0 and "61,706" in out and "Conv2d 5x5" in out
    assert json.loads(run(capsys, "summary", "lenet", "--json")[1])["macs"] == 416_520
    code, out, _ = run(capsys, "recipes")
    assert code == 0 and out.startswith("lenet (lenet-mnist: --data mnist)\n")
    code, out, _ = run(capsys, "info")
    assert code == 0 and "NumPy" in out and np.__version__ in out and "backend" in out
    assert json.loads(run(capsys, "info", "--json")[1])["NumPy"] == np.__version__


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    commands = ("train", "evaluate", "predict", "summary", "recipes", "info", "features", "speed", "explore", "explain-net")
    assert code == 0 and all(command in out for command in commands)


def test_python_m_fastcnn():
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run([sys.executable, "-m", "fastcnn", "recipes"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "lenet" in done.stdout


def test_a_closed_pipe_is_no_error():
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "fastcnn", "recipes"], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == ""


# Every recipe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures in colour, in six classes."""
    pytest.importorskip("PIL", reason="the extra `data` is not installed")
    folder = tmp_path_factory.mktemp("pictures")
    datasets.save_image_folder(datasets.textures(36, size=50, channels=3), folder)
    return folder


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lenet", ["--subset", "40", "--restarts", "1"]),
        ("filterbank-mnist", ["--data", "digits", "--subset", "40"]),
        ("twoconv-mnist", ["--data", "digits", "--subset", "40", "--pool", "average"]),
        ("twoconv-cifar10", ["--data-dir", "{cifar10}"]),
        ("simple-cifar10", ["--data-dir", "{cifar10}"]),
        ("batchnorm-cifar10", ["--data-dir", "{cifar10}", "--subset", "30"]),
        ("deep-cifar10", ["--data-dir", "{cifar10}", "--subset", "30"]),
        ("wide-256", ["--data-dir", "{pictures}", "--size", "41", "--channels", "3"]),
        ("wide-256", ["--data", "textures", "--subset", "8", "--size", "41"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1].strip("{}"),
)
def test_every_recipe_trains_evaluates_predicts_and_goes_on(name, arguments, tmp_path, small_cifar10, pictures, capsys):
    out, picture = tmp_path / "run", next(pictures.rglob("*.png"))
    arguments = [argument.format(cifar10=small_cifar10, pictures=pictures) for argument in arguments]
    code, text, err = run(capsys, "train", name, *arguments, "--epochs", 1, "--batch-size", 8, "--no-download", "--quiet", "--out", out)
    assert code == 0, err
    assert "test accuracy" in text and recipes.get(name).reported in text
    config = json.loads((out / "config.json").read_text())
    for option in ("pool", "size", "channels", "restarts", "subset"):
        if f"--{option}" in arguments:
            given = (config["options"] if option == "subset" else config["recipe_options"])[option]
            assert str(given) == arguments[arguments.index(f"--{option}") + 1]
    measured = json.loads((out / "metrics.json").read_text())
    code, text, _ = run(capsys, "evaluate", out, "--json")
    assert code == 0 and json.loads(text)["test_accuracy"] == measured["test_accuracy"]
    assert json.loads(text)["test_loss"] == pytest.approx(measured["test_loss"], rel=1e-5)
    code, text, err = run(capsys, "predict", out, picture, "--json")
    (answer,) = json.loads(text)
    assert code == 0 and sum(guess["probability"] for guess in answer["classes"]) <= 1.0001
    assert ("bright ground" in err) <= recipes.get(name).dark_ground
    weights = (out / "weights.safetensors").read_bytes()
    code, text, _ = run(capsys, "train", name, "--resume", out, "--quiet")
    assert code == 0 and (out / "weights.safetensors").read_bytes() == weights
    files = {path.name for path in out.iterdir()}
    pictures = {"curves.png", "error_rate.png", "confusion_matrix.png", "confusion_counts.png", "class_accuracy.png", "filters.png"}
    assert pictures <= files or not any(file.endswith(".png") for file in files)  # none without matplotlib
    assert ("features.png" in files) == (name == "filterbank-mnist" and "curves.png" in files)


def test_the_list_names_every_recipe_with_its_figure_and_options(capsys):
    code, out, _ = run(capsys, "recipes")
    assert code == 0 and len(recipes.names()) == 8
    for recipe in map(recipes.get, recipes.names()):
        assert f"\n  reported: {recipe.reported}\n" in out and recipe.description in out
        for option in recipe.options:
            assert f"--{option} " in out and option in _RECIPE_OPTIONS
    assert set(_RECIPE_OPTIONS) == {option for name in recipes.names() for option in recipes.get(name).options}


def test_summary_takes_a_recipe_s_options(capsys):
    assert "36,492,550" in run(capsys, "summary", "wide-256")[1]
    assert "36,498,950" in run(capsys, "summary", "wide-256", "--channels", 3)[1]
    assert "AvgPool2d" in run(capsys, "summary", "twoconv-mnist", "--pool", "average")[1]


# What a user can get wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lenett"], "no recipe 'lenett': did you mean lenet"),
        (["summary", "nothing"], "no recipe 'nothing'"),
        (["train", "lenet", "--data", "cifar10"], "no setup for the data set 'cifar10', there are digits, mnist, fashion-mnist"),
        (["train", "lenet", "--data", "mnist", "--data-dir", "{tmp}/none", "--no-download"], "{tmp}/none"),
        (["train", "lenet", "--subset", "2000"], "lenet: subset must be from 1 to 1442, the training images of digits, got 2000"),
        (["train", "lenet", "--pool", "max"], "lenet: no option 'pool', there are restarts"),
        (["train", "twoconv-mnist", "--data-dir", "{tmp}", "--no-download"], "--data digits"),
        (["train", "twoconv-mnist", "--pool", "median"], "twoconv-mnist: pool must be max or average, got 'median'"),
        (["summary", "wide-256", "--channels", "2"], "wide-256: channels must be 1 or 3, got 2"),
        (["train", "wide-256"], "wide-256: name a folder of pictures, in a sub-folder for each class, by --data-dir"),
        (["train", "wide-256", "--data-dir", "{tmp}/none"], "image_folder: no folder {tmp}/none"),
        (["train", "wide-256", "--data-dir", "{tmp}"], "has no sub-folders; one per class is expected"),
        (["train", "lenet", "--data-dir", "{tmp}"], "digits come with the package and are read from no other place: leave out data_dir ({tmp})"),
        (["train", "lenet", "--data", "digits", "--data-dir", "{tmp}"], "leave out data_dir ({tmp})"),
        (["evaluate", "{run}", "--data-dir", "{tmp}"], "leave out data_dir ({tmp})"),
        (["train", "lenet", "--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["train", "lenet", "--epochs", "many"], "--epochs: 'many' is not a whole number"),
        (["train", "lenet", "--batch-size", "2.5"], "--batch-size: '2.5' is not a whole number"),
        (["train", "lenet", "--lr", "-1"], "--lr: must be greater than 0, got -1"),
        (["train", "lenet", "--lr", "nan"], "--lr: must be greater than 0, got nan"),
        (["train", "lenet", "--lr", "inf"], "--lr: must be greater than 0, got inf"),
        (["train", "lenet", "--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["train", "lenet", "--threads", "0"], "--threads: must be at least 1, got 0"),
        (["train", "lenet", "--threads", "2", "--backend", "reference"], "--threads is for the cpu backend"),
        (["train", "lenet", "--backend", "gpu"], "invalid choice: 'gpu'"),
        (["train", "lenet", "--out", "{run}"], "{run} holds a run already"),
        (["train", "lenet", "--out", "{run}/config.json/x"], "Not a directory"),
        (["train", "lenet", "--capture", "--backend", "reference"], "capture=True is for backend 'cuda', the current one is 'reference'"),
        (["train", "lenet", "--resume", "{run}", "--capture"], "--capture: a resumed run keeps the options"),
        (["train", "lenet", "--resume", "{run}", "--epochs", "9", "--lr", "1"], "--epochs, --lr: a resumed run keeps the options"),
        (["train", "lenet", "--resume", "{tmp}"], "{tmp}: is no run folder"),
        (["evaluate", "{tmp}/none"], "{tmp}/none: is no run folder"),
        (["predict", "{run}", "{tmp}/none.png"], "{tmp}/none.png: no such file"),
        (["predict", "{run}", "{run}/config.json"], "config.json: not a readable image"),
        (["features", "{tmp}", "x.png"], "{tmp}: is no run folder"),
        (["features", "{run}", "{tmp}/none.png"], "{tmp}/none.png: no such file"),
        (["speed", "lenett"], "no recipe 'lenett': did you mean lenet"),
        (["speed", "{tmp}"], "{tmp}: is no run folder"),
        (["speed", "lenet", "--batch", "0"], "--batch: must be at least 1, got 0"),
        (["predict", "{run}"], "the following arguments are required: IMAGE"),
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
    ],
    ids=lambda value: "_".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistakes_end_with_one_line_and_code_2(arguments, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(run=folder, tmp=tmp_path) for argument in arguments]
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and "Traceback" not in err
    assert message.format(run=folder, tmp=tmp_path) in err.strip().splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json"])
def test_a_damaged_run_is_named(folder, tmp_path, capsys, file):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / file).read_bytes())
    (tmp_path / file).write_bytes(data[: len(data) // 2])
    code, out, err = run(capsys, "evaluate", tmp_path)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and file in err


def test_a_configuration_with_wrong_values_is_named_when_resuming(folder, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["options"]["lr"] = "0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = run(capsys, "train", "lenet", "--resume", tmp_path)
    assert code == 2 and out == "" and f"{tmp_path / 'config.json'}: lr must be " in err.splitlines()[-1]


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"fastcnn {fastcnn.__version__}\n", "")


def test_a_missing_extra_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    code, _, err = run(capsys, "train", "lenet", "--out", tmp_path / "run")
    assert code == 2 and 'pip install "fastcnn[train]"' in err.splitlines()[-1] and not (tmp_path / "run").exists()


def test_without_matplotlib_there_are_no_pictures_and_one_note(tmp_path, capsys, monkeypatch):
    for name in ("matplotlib", "matplotlib.colors", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run(capsys, "train", "lenet", "--epochs", 1, "--out", tmp_path / "run", "--quiet")
    assert code == 0 and err.count("no pictures") == 1 and 'pip install "fastcnn[plot]"' in err
    assert not list((tmp_path / "run").glob("*.png"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about the overflow that is provoked here
def test_divergence_is_code_1(tmp_path, capsys):
    code, _, err = run(capsys, "train", "lenet", "--lr", 1e6, "--epochs", 2, "--out", tmp_path / "run")
    assert code == 1 and "the loss became" in err.splitlines()[-1] and "smaller learning rate" in err


def test_the_traceback_is_there_for_those_who_ask():
    with pytest.raises(ValueError, match="no recipe"):
        main(["--traceback", "summary", "nothing"])


def test_logging_is_left_as_it_was(capsys):
    library = logging.getLogger("fastcnn")
    before = library.level, library.propagate, list(library.handlers)
    run(capsys, "recipes")
    run(capsys, "summary", "nothing")
    assert (library.level, library.propagate, list(library.handlers)) == before
