"""The restricted pickle reader builds plain data as pickle does, and nothing else."""

import io
import os
import pickle
import pickletools
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastcnn.datasets import DatasetError
from fastcnn.datasets.restricted_pickle import loads

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's str."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data):
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def dumps2(value):
    """As Python 2 with an old NumPy pickles it."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def same(left, right):
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


arrays = st.builds(
    lambda dtype, shape, order: np.arange(np.prod(shape)).astype(dtype).reshape(shape, order=order),
    st.sampled_from(["u1", "<i4", ">i4", "f4", ">f8", "?", "u2"]),
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.sampled_from("CF"),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary())
keys = st.one_of(st.integers(), st.text(max_size=5), st.binary(max_size=5))
plain = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.sampled_from([2, 3, 4, 5]))
def test_loads_agrees_with_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    assert same(loads(data, "data"), pickle.loads(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_loads_every_protocol(protocol):
    value = {"a": [1, -2, 2**40, 2**2000], "b": ("x", b"yz"), "c": {}, "d": [], "e": (), "f": True, "g": None}
    if protocol < 2:
        value["b"] = ("x",)  # bytes need a function call there that is not ours to allow
    assert loads(pickle.dumps(value, protocol), "data") == value


def test_loads_python2_strings_as_latin1():
    value = {b"labels": [1, 2], b"data": np.arange(600, dtype=np.uint8).reshape(2, 300), b"\xe9": b"x" * 300}
    read = loads(dumps2(value), "data")
    assert list(read) == ["labels", "data", "é"]
    assert read["é"] == "x" * 300
    assert np.array_equal(read["data"], value[b"data"])
    assert same(read, pickle.loads(dumps2(value), encoding="latin1"))


def test_loads_one_array_referred_to_twice():
    array = np.arange(3)
    for protocol in (2, 5):
        first, second = loads(pickle.dumps([array, array], protocol), "data")
        assert first is second and first.tolist() == [0, 1, 2]


class Call:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.system, ("exit 3",), f"{os.system.__module__}.system"),
        (subprocess.Popen, (["true"],), r"(subprocess|commands)\.Popen"),  # Python 2 names below protocol 3
        (eval, ("1 + 1",), r"(builtins|__builtin__)\.eval"),
        (getattr, ("x", "upper"), r"(builtins|__builtin__)\.getattr"),
        (np.load, ("x",), r"numpy\.load"),
        (bytearray, (10,), r"(builtins|__builtin__)\.bytearray"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_loads_refuses_forbidden_globals(function, arguments, name, protocol):
    data = pickle.dumps({"data": Call(function, arguments)}, protocol)
    with pytest.raises(DatasetError, match=f"^file: the pickle uses the global {name}, which is forbidden"):
        loads(data, "file")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"cos\nsystem\n(S'true'\ntR.", "the global os.system, which is forbidden"),
        (b"(S'true'\nios\nsystem\n.", "the instruction INST 'os system', which is forbidden"),
        (b"(cos\nsystem\nS'true'\no.", "the global os.system"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1 1, which is forbidden"),
        (b"Pid\n.", "the instruction PERSID 'id'"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "the global os.system"),
        (b"\x80\x04K\x01K\x02\x93.", "names a global by something other than strings"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls numpy.ndarray"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R.", "dtype 'O8', which is forbidden"),
        (b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.", "sets the state of something other than an array"),
        (b"\x80\x02K\x01K\x02\x85R.", "calls something that is no function"),
        (b"\x80\x02}((tK\x01u.", "a dict key that is no str"),
        (b"\x80\x02}K\x01a.", "appends to something that is no list"),
        (b"\x80\x02]K\x01K\x02s.", "sets items of something that is no dict"),
        (b"\x80\x02}(K\x01u.", "sets items of something that is no dict"),
        (b"\x80\x02K\x01u.", "lacks a mark"),
        (b"\x80\x02K\x01\x86.", "stack is too short"),
        (b"\x80\x02h\x07.", "not a readable pickle: KeyError: 7"),
        (b"\x80\x02.", "not a readable pickle: IndexError"),
        (b"\x80\x02]", "not a readable pickle: ValueError"),
        (b"", "not a readable pickle: ValueError"),
        (b"\xff\xd8\xff\xe0", "not a readable pickle: ValueError"),
    ],
)  # fmt: skip
def test_loads_refuses_crafted_pickles(data, message):
    with pytest.raises(DatasetError, match=message):
        loads(data, "file")


@pytest.mark.parametrize(
    "array",
    [np.array([{}, None]), np.zeros(2, "i4,f4"), np.zeros(2, "U3"), np.zeros(2, "M8[s]"), np.zeros(2, complex), np.array(["a"], "S1")],
    ids=lambda array: str(array.dtype),
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_loads_refuses_other_dtypes(array, protocol):
    with pytest.raises(DatasetError, match="forbidden: only plain numbers are read|array without values"):
        loads(pickle.dumps(array, protocol), "file")


RECONSTRUCT = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01%bcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89%btb."
)


@pytest.mark.parametrize(
    "shape, values, message",
    [
        (b"K\x03\x85", b"U\x03abc", None),
        (b"K\x04\x85", b"U\x03abc", "array of 4 uint8 values in 3 bytes"),
        (b"J\xff\xff\xff\xff\x85", b"U\x03abc", "without a shape"),
        (b"]", b"U\x03abc", "without a shape"),
        (b"(" + 40 * b"K\x01" + b"t", b"U\x01a", "without a shape"),
        (b"K\x03\x85", b"]", "without values"),
    ],
)
def test_loads_checks_the_state_of_arrays(shape, values, message):
    data = RECONSTRUCT % (shape, values)
    if message is None:
        assert loads(data, "file").tolist() == [97, 98, 99]
    else:
        with pytest.raises(DatasetError, match=message):
            loads(data, "file")


def test_loads_refuses_amplification():
    text = b"X\xe8\x03\x00\x00" + b"a" * 1000  # 1,000 characters, encoded again and again
    again = b"h\x01h\x00U\x06latin1\x86Ra"
    data = b"\x80\x02]" + text + b"q\x000c_codecs\nencode\nq\x010" + 1000 * again + b"."
    with pytest.raises(DatasetError, match="makes more bytes than it has"):
        loads(data, "file")


def test_loads_survives_absurd_requests():
    deep = b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000
    for data in (
        b"\x80\x02]r\xff\xff\xff\x7f.",  # memo index 2**31 - 1
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # 2**62 bytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x02I" + b"9" * 10_000 + b"\n.",
        deep + b".",
        b"\x80\x02}" + deep[2:] + b"K\x01s.",
    ):
        try:
            loads(data, "file")
        except DatasetError:
            continue


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # from pickletools, about the text strings of protocol 0
@settings(max_examples=200, deadline=None)
@given(where=st.integers(0, 10_000), bits=st.integers(1, 255), cut=st.booleans(), again=st.integers(0, 10_000))
@example(where=3, bits=64, cut=False, again=0)
def test_loads_damaged_raises_nothing_else(where, bits, cut, again):
    data = bytearray(SAMPLE)
    data[where % len(data)] ^= bits
    data[again % len(data)] ^= bits >> 1
    if cut:
        del data[where % len(data) :]
    try:
        loads(bytes(data), "file")
    except DatasetError as error:
        assert str(error).startswith("file: ")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=200, deadline=None)
@given(codes=st.lists(st.sampled_from([opcode.code for opcode in pickletools.opcodes]), max_size=12), tail=st.binary(max_size=20))
def test_loads_random_programs_raise_nothing_else(codes, tail):
    data = b"\x80\x02]}K\x01U\x01a" + "".join(codes).encode("latin-1") + tail + b"."
    try:
        loads(data, "file")
    except DatasetError:
        return


SAMPLE = dumps2({b"labels": [3, 1, 4], b"data": np.arange(60, dtype=np.uint8).reshape(3, 20), b"filenames": [b"a.png", b"b.png"]})
