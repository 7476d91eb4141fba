"""CIFAR-10's binary version: folders and archives in the real format, good and malformed."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from convolt.data import load
from convolt.data.cifar10 import ARCHIVE, FOLDER, RECORD_BYTES, TEST, TRAIN

NAMES = (*TRAIN, TEST)
COUNTS = dict(zip(NAMES, (3, 4, 3, 5, 3, 6), strict=True))


@pytest.fixture
def files(rng):
    """The contents of the six files: label, red, green, blue; label, ..."""
    return {
        name: b"".join(
            bytes([rng.integers(0, 10)]) + rng.integers(0, 256, 3072, np.uint8).tobytes()
            for _ in range(count)
        )
        for name, count in COUNTS.items()
    }


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (folder / name).write_bytes(contents)


def archive(members):
    """A .tar.gz of (name, contents), or (name, None, link) for a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents, *link in members:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link[0]
            else:
                member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents or b""))
    return buffer.getvalue()


def members(files):
    """As published: a text and a page beside the data."""
    return [
        (f"{FOLDER}/readme.html", b"<html>"),
        *((f"{FOLDER}/{name}", contents) for name, contents in files.items()),
        (f"{FOLDER}/batches.meta.txt", b"airplane\n"),
    ]


def assert_holds(train, test, files):
    assert train.name == test.name == "cifar10"
    assert train.classes[0] == "airplane"
    assert train.classes[9] == "truck"
    assert (len(train), len(test)) == (18, 6)
    joined = b"".join(files[name] for name in TRAIN)
    for dataset, contents in ((train, joined), (test, files[TEST])):
        assert dataset.images.shape == (len(dataset), 32, 32, 3)
        for i in range(len(dataset)):
            record = contents[i * RECORD_BYTES : (i + 1) * RECORD_BYTES]
            assert dataset.labels[i] == record[0]
            for channel in range(3):
                for row, column in ((0, 0), (0, 31), (17, 5), (31, 30)):
                    byte = record[1 + 1024 * channel + 32 * row + column]
                    assert dataset.images[i, row, column, channel] == byte


@pytest.mark.parametrize("subfolder", [".", FOLDER, "cifar10", f"cifar10/{FOLDER}"])
def test_reads_a_folder(tmp_path, files, subfolder):
    write_folder(tmp_path / subfolder, files)
    assert_holds(*load("cifar10", root=tmp_path), files)


@pytest.mark.parametrize("subfolder", [".", "cifar10"])
def test_reads_the_archive(tmp_path, files, subfolder):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    path = tmp_path / subfolder / ARCHIVE
    path.write_bytes(archive(members(files)))
    before = sorted(tmp_path.rglob("*"))
    assert_holds(*load("cifar10", root=tmp_path), files)
    assert_holds(*load("cifar10", root=path), files)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


def test_other_size(tmp_path, files):
    write_folder(tmp_path, files)
    assert load("cifar10", root=tmp_path, size=16)[1].images.shape == (6, 16, 16, 3)


RECORD = bytes(RECORD_BYTES)


@pytest.mark.parametrize("name", [TRAIN[0], TRAIN[4], TEST])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "found 0 bytes: 0 records"),
        (RECORD[:-1], "found 3072 bytes: 0 records and 3072 bytes"),
        (RECORD * 2 + b"\0", "found 6147 bytes: 2 records and 1 bytes"),
        (RECORD * 3 + b"\x0a" + RECORD[1:], r"label 10 of image 3 is out of range; .*0 \.\. 9"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_malformed_contents(tmp_path, files, name, contents, message, packed):
    changed = {**files, name: contents}
    if packed:
        (tmp_path / ARCHIVE).write_bytes(archive(members(changed)))
    else:
        write_folder(tmp_path, changed)
    with pytest.raises(ValueError, match=f"(?s){name}.*({message})"):
        load("cifar10", root=tmp_path)


def test_files_that_are_too_large(tmp_path, files):
    changed = {**files, TRAIN[1]: RECORD * 10_001}
    write_folder(tmp_path, changed)
    with pytest.raises(ValueError, match=r"batch_2.*expected 1 \.\. 10000 records"):
        load("cifar10", root=tmp_path)
    path = tmp_path / "some.tar.gz"
    path.write_bytes(archive(members(changed)))
    with pytest.raises(ValueError, match=r"batch_2.* at most 30730000 bytes, found 30733073"):
        load("cifar10", root=path)


def test_part_of_a_folder(tmp_path, files):
    write_folder(tmp_path, {k: v for k, v in files.items() if k != TRAIN[2]})
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3\.bin; found data_batch_1"):
        load("cifar10", root=tmp_path)


def test_the_pickled_version_is_refused(tmp_path):
    write_folder(tmp_path, {"data_batch_1": b"\x80\x04", "test_batch": b"\x80\x04"})
    with pytest.raises(FileNotFoundError, match=r"(?s)\['data_batch_1', 't.*pickled and is not r"):
        load("cifar10", root=tmp_path)


def test_empty_or_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found in .*: nothing.*--data-dir"):
        load("cifar10", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("cifar10", root=tmp_path / "none")


def rejected(tmp_path, contents, message):
    path = tmp_path / "some.tar.gz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"(?s)some\.tar\.gz.*{message}"):
        load("cifar10", root=path)
    assert list(tmp_path.rglob("*")) == [path]


def test_archive_with_other_names(tmp_path, files):
    moved = [(f"elsewhere/{name}", contents) for name, contents in files.items()]
    rejected(tmp_path, archive(moved), r"expected members .*found others: \['elsewhere/data")
    rejected(tmp_path, archive(members(files)[:-3]), r"expected members \['cifar-10-batches-bin/d")
    rejected(tmp_path, archive([]), r"found others: \[\]")


def test_archive_that_points_outside(tmp_path, files):
    outside = [(f"../{FOLDER}/{n}", c) for n, c in files.items()]
    rejected(tmp_path, archive(outside), "expected members")
    absolute = [(f"/{FOLDER}/{n}", c) for n, c in files.items()]
    rejected(tmp_path, archive(absolute), "expected members")
    linked = [*members(files), (f"{FOLDER}/{TEST}", None, "/etc/passwd")]
    rejected(tmp_path, archive(linked), "found a link")


def test_unexpected_members_are_not_read(tmp_path, files):
    path = tmp_path / "some.tar.gz"
    path.write_bytes(archive([("../../evil", b"x"), ("a", None, "/etc"), *members(files)]))
    assert_holds(*load("cifar10", root=path), files)
    assert list(tmp_path.rglob("*")) == [path]


def test_malformed_archive(tmp_path, files):
    whole = archive(members(files))
    for contents in (b"", b"text", gzip.compress(b"text"), whole[:-1], whole[: len(whole) // 2]):
        rejected(tmp_path, contents, r"expected a complete \.tar\.gz, found")
    wrong_checksum = whole[:-8] + bytes(4) + whole[-4:]
    rejected(tmp_path, wrong_checksum, r"expected a complete \.tar\.gz, found: CRC")
