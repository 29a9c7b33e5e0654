"""checkpoint: what was saved comes back whole, or not at all and with a reason."""

import os
import sys

import numpy as np
import pytest

from fastcnn import checkpoint, nn
from fastcnn.checkpoint import CheckpointError

pytest.importorskip("safetensors", reason="the extra `train` is not installed")


def arrays():
    rng = np.random.default_rng(0)
    return {
        "float32": rng.normal(size=(3, 4)).astype(np.float32),
        "float64": rng.normal(size=5),
        "transposed": rng.normal(size=(2, 3, 4)).transpose(2, 0, 1),
        "every_second": np.arange(10, dtype=np.float32)[::2],
        "channels_last": rng.normal(size=(2, 5, 5, 3)).transpose(0, 3, 1, 2),
        "int64": np.arange(3),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
    }


def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3, rng=0), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 3, rng=1))


def test_arrays_and_state_come_back(tmp_path):
    path = tmp_path / "file.safetensors"
    state = {"epoch": 3, "lr": 0.1, "big": 2**100, "nan": None, "name": "é", "nested": {"list": [1, 2.5, "x"]}, "number": np.float32(0.25)}
    checkpoint.save(path, arrays(), state)
    loaded, found = checkpoint.load(path)
    assert loaded.keys() == arrays().keys()
    for name, array in arrays().items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape and np.array_equal(loaded[name], array), name
    assert found == state


def test_big_endian_arrays_are_stored_as_numbers_not_as_bytes(tmp_path):
    checkpoint.save(tmp_path / "file", {"x": np.arange(4, dtype=">f4")})
    loaded, _ = checkpoint.load(tmp_path / "file")
    assert np.array_equal(loaded["x"], [0, 1, 2, 3])


def test_saving_leaves_inputs_untouched_and_no_other_file(tmp_path):
    given, before = arrays(), arrays()
    checkpoint.save(tmp_path / "file", given)
    checkpoint.save(tmp_path / "file", given)
    assert all(np.array_equal(given[name], before[name]) for name in given)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_round_trip_and_state(tmp_path):
    model, other = network(), network()
    model[0].weight.data[:] = 7
    checkpoint.save_weights(tmp_path / "w", model, {"note": "hello"})
    assert checkpoint.load_weights(tmp_path / "w", other) == {"note": "hello"}
    for name, array in model.state_dict().items():
        assert np.array_equal(other.state_dict()[name], array)


def test_torch_reads_the_weights(tmp_path):
    load_file = pytest.importorskip("safetensors.torch", reason="PyTorch is not installed").load_file
    model = network()
    checkpoint.save_weights(tmp_path / "w", model)
    tensors = load_file(tmp_path / "w")
    assert tensors.keys() == model.state_dict().keys()
    assert all(np.array_equal(tensors[name].numpy(), array) for name, array in model.state_dict().items())


@pytest.mark.parametrize("kept", ["0", "1", "7", "8", "9", "100", "half", "all but one"])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    checkpoint.save(path, arrays(), {"epoch": 1})
    data = path.read_bytes()
    path.write_bytes(data[: {"half": len(data) // 2, "all but one": len(data) - 1}.get(kept) or int(kept)])
    with pytest.raises(CheckpointError, match="cut.safetensors: .*(empty|whole|damaged)"):
        checkpoint.load(path)


def test_appended_bytes_are_refused(tmp_path):
    path = tmp_path / "file"
    checkpoint.save(path, arrays())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="file"):
        checkpoint.load(path)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "file"
    wanted, state = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2)}, {"epoch": 7, "lr": 0.125}
    checkpoint.save(path, wanted, state)
    data = path.read_bytes()
    noticed = 0
    for position in range(len(data)):
        for bit in (0, 5) if position < len(data) - 40 else range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                loaded, found = checkpoint.load(path)
            except CheckpointError as error:
                assert str(path) in str(error)
                noticed += 1
            else:  # blanks between the header and the tensors, or the format note for other programs
                assert found == state and all(np.array_equal(loaded[name], wanted[name]) for name in wanted)
    assert noticed > 2 * (len(data) - 100)


def test_swapped_tensors_are_noticed(tmp_path):
    path = tmp_path / "file"
    checkpoint.save(path, {"a": np.full(4, 1.0), "b": np.full(4, 2.0)})
    data = path.read_bytes()
    one, two = np.full(4, 1.0).tobytes(), np.full(4, 2.0).tobytes()
    path.write_bytes(data.replace(one, b"?" * 32).replace(two, one).replace(b"?" * 32, two))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(path)


def test_missing_file_folder_and_empty_file(tmp_path):
    with pytest.raises(CheckpointError, match="nothing.here: No such file"):
        checkpoint.load(tmp_path / "nothing.here")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="empty: the file is empty"):
        checkpoint.load(tmp_path / "empty")


def test_other_programs_files_only_without_verification(tmp_path):
    from safetensors.numpy import save_file

    model, other = network(), network()
    model[0].bias.data[:] = 5
    save_file(model.state_dict(), tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="no fastcnn checksums.*verify=False"):
        checkpoint.load_weights(tmp_path / "theirs", other)
    checkpoint.load_weights(tmp_path / "theirs", other, verify=False)
    assert (other[0].bias.data == 5).all()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: network(width=5), r"0.bias has shape \(4,\), the network's has \(5,\)"),
        (lambda: nn.Sequential(*network()[:4]), "4.bias is not in the network"),
        (lambda: nn.Sequential(*network(), nn.Linear(3, 2, rng=0)), "5.bias is missing"),
        (lambda: network().double(), "0.bias is float32, the network's is float64"),
    ],
    ids=["width", "shorter", "longer", "dtype"],
)
def test_another_network_is_refused_and_left_alone(tmp_path, other, reason):
    checkpoint.save_weights(tmp_path / "w.safetensors", network())
    model = other()
    before = model.state_dict()
    with pytest.raises(CheckpointError, match=f"w.safetensors: was saved from another network: .*{reason}"):
        checkpoint.load_weights(tmp_path / "w.safetensors", model)
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    checkpoint.save(path, {"x": np.ones(3)})

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"x": np.zeros(3)})
    monkeypatch.undo()
    assert np.array_equal(checkpoint.load(path)[0]["x"], np.ones(3))
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_the_data_are_on_disk_before_the_name_points_to_them(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names))[1])
    checkpoint.save(tmp_path / "file", {"x": np.ones(3)})
    assert calls[:2] == ["fsync", "replace"]


def test_unserialisable_state_is_refused(tmp_path):
    with pytest.raises(TypeError, match="state holds numbers"):
        checkpoint.save(tmp_path / "file", {}, {"x": object()})
    assert not list(tmp_path.iterdir())


def test_without_safetensors_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "fastcnn\[train\]"'):
        checkpoint.save(tmp_path / "file", {})


def test_equal_content_gives_equal_files(tmp_path):
    state = {name: 1 for name in "abcdefgh"}
    for number in range(5):
        checkpoint.save(tmp_path / f"{number}", arrays(), state)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
