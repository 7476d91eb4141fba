"""Machine code of tiles on disk: damaged files, folders that cannot be written, other features."""

import logging

import pytest

from convolt.kernels.cpu import assemble, machine
from convolt.kernels.cpu.tiles import Tile, tile_shape


@pytest.fixture
def tile():
    shape = tile_shape("float32")
    return Tile("rows", 3, 1, shape.lanes, "float32", shape.fused)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "cache_dir", lambda: tmp_path / "kept")
    return tmp_path / "kept"


def test_code_is_kept_and_found_again(tile, folder, monkeypatch):
    assert assemble._load(tile)
    (path,) = folder.iterdir()
    monkeypatch.setattr(assemble, "_optimized", None)  # nothing may be compiled
    assert assemble._load(tile)
    assert [*folder.iterdir()] == [path]


DAMAGE = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "a byte short": lambda whole: whole[:-1],
    "zeros": lambda whole: bytes(len(whole)),
    "zeros at the end": lambda whole: whole[:512] + bytes(len(whole) - 512),
    "one bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_code_is_compiled_again(tile, folder, damage):
    assemble._load(tile)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    assert assemble._load(tile)
    assert path.read_bytes() == whole


def test_code_that_cannot_be_kept_runs_all_the_same(tile, folder, caplog):
    folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "convolt"):
        assert assemble._load(tile)
    assert "are not kept" in caplog.text


def test_features_that_are_not_in_force_are_switched_off(tile, monkeypatch):
    if "avx512f" not in machine.cpu_features():
        pytest.skip("this CPU has no AVX-512 to be switched off")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2,+avx,+avx2,+fma")  # and no CPU name
    machine.cpu_features.cache_clear()
    try:
        flags = machine.feature_flags()
        assert {"+avx2", "-avx512f", "-avx512vl"} <= set(flags.split(","))
        narrow = Tile("rows", 3, 1, 8, "float32")
        text = assemble.assembly(narrow, "x86_64-linux-gnu", machine.cpu_name(), flags)
        assert "%ymm" in text
        assert "%zmm" not in text
        assert "{%k" not in text
    finally:
        monkeypatch.undo()
        machine.cpu_features.cache_clear()
