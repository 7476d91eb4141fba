"""Checkpoints: whole, verified, byte-deterministic, and never lost to a failing disk."""

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

from convolt.training.checkpoint import CheckpointError, load, save
from convolt.training.files import remove_temporary_files, write_atomically

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not C-contiguous
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 2)),
    "mask": np.array([True, False, True]),
    "count": np.array([2**63], np.uint64),
}
META = {"epoch": 2, "rows": [{"loss": 0.1}], "text": "é\n", "none": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def test_arrays_and_meta_come_back_as_they_were(path):
    save(path, ARRAYS, META)
    arrays, meta = load(path)
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert np.array_equal(arrays[name], array)
        assert arrays[name].flags.c_contiguous
        assert arrays[name].flags.writeable


def test_the_same_contents_give_the_same_bytes_in_any_order(path):
    save(path, ARRAYS, META)
    first = path.read_bytes()
    for _ in range(5):
        save(path, dict(reversed(ARRAYS.items())), dict(reversed(META.items())))
        assert path.read_bytes() == first


def test_there_is_exactly_one_metadata_entry_of_canonical_json(path):
    save(path, ARRAYS, META)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    (entry,) = header["__metadata__"].values()
    text = json.dumps(json.loads(entry), sort_keys=True, separators=(",", ":"))
    assert entry == text


def test_every_flipped_bit_is_found(path):
    save(path, {"w": np.arange(3, dtype=np.float32)}, {"epoch": 2})
    good = path.read_bytes()
    for byte in range(len(good)):
        bad = bytearray(good)
        bad[byte] ^= 1 << (byte % 8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"state\.safetensors"):
            load(path)


def test_every_truncation_and_any_trailing_byte_is_found(path):
    save(path, {"w": np.arange(3, dtype=np.float32)}, {"epoch": 2})
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError):
            load(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError):
        load(path)
    path.write_bytes(good)
    load(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "not a checkpoint of convolt"),
        ({"format": "pt"}, "not a checkpoint of convolt"),
        ({"convolt": "{}", "format": "pt"}, "not a checkpoint of convolt"),
        ({"convolt": "no JSON"}, "damaged"),
        ({"convolt": "[]"}, "damaged"),
        ({"convolt": "[" * 100_000}, "damaged"),
        ({"convolt": '{"version":1}'}, "damaged"),
        ({"convolt": '{"version":2}'}, "version 2; this convolt reads version 1"),
        ({"convolt": '{"version":1,"meta":NaN,"sha256":""}'}, "checksum"),
    ],
)
def test_foreign_safetensors_files_are_refused(path, metadata, reason):
    path.write_bytes(safetensors_bytes({"w": np.ones(3, np.float32)}, metadata))
    with pytest.raises(CheckpointError, match=reason):
        load(path)


def test_a_pickle_and_a_missing_file_are_refused(path, tmp_path):
    import pickle

    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            load(missing)


def test_what_cannot_be_saved_is_refused_before_the_file_is_touched(path):
    save(path, ARRAYS, META)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        save(path, ARRAYS, {"loss": float("nan")})
    with pytest.raises(TypeError):
        save(path, ARRAYS, {"loss": np.float32(1)})
    for dtype in (object, np.complex64, np.longdouble, ">f4", "M8[s]"):
        with pytest.raises(TypeError, match="bad has dtype"):
            save(path, {"bad": np.zeros(2, dtype)}, META)
    assert path.read_bytes() == before


@pytest.mark.parametrize("function", ["open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_the_previous_checkpoint(path, monkeypatch, function):
    save(path, ARRAYS, META)
    before = path.read_bytes()

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(CheckpointError, match=r"state\.safetensors.*No space left on device"):
            save(path, ARRAYS, {"epoch": 3})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    save(path, ARRAYS, {"epoch": 3})
    assert load(path)[1] == {"epoch": 3}


def test_short_writes_are_continued(path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    write_atomically(path, bytes(range(100)))
    assert path.read_bytes() == bytes(range(100))


def test_an_interrupt_while_writing_leaves_nothing_half(path, monkeypatch):
    save(path, ARRAYS, META)

    def interrupted(_file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(path, ARRAYS, {"epoch": 3})
    assert os.listdir(path.parent) == [path.name]
    assert load(path)[1] == META


def test_a_really_full_disk_leaves_the_previous_checkpoint(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system: {error}")
    try:
        path = small / "state.safetensors"
        save(path, {"w": np.ones(10_000, np.float32)}, {"epoch": 1})
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(path, {"w": np.ones(100_000, np.float32)}, {"epoch": 2})
        assert os.listdir(small) == [path.name]
        assert load(path)[1] == {"epoch": 1}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_only_temporary_files_are_removed(tmp_path):
    for name in (".last.safetensors.123.tmp", "mine.tmp", ".hidden", "last.safetensors"):
        Path(tmp_path, name).touch()
    remove_temporary_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "last.safetensors", "mine.tmp"]
