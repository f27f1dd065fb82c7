from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.errors import InputError
from lakefactor.kernels import hash_ids
from lakefactor.kernels.hashing import fnv1a64, splitmix64

# Vectors published by the authors of FNV (test_fnv.c, RFC 9923).
FNV1A64 = {b"": 0xCBF29CE484222325, b"a": 0xAF63DC4C8601EC8C, b"b": 0xAF63DF4C8601F1A5, b"foobar": 0x85944171F73967E8}
# First outputs of SplitMix64 from seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
SPLITMIX64 = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
GAMMA = 0x9E3779B97F4A7C15
WORDS = ["", "a", "Zoë", "日本語", "🎬 film", "a" * 1000, "a\0b"]


def plain_hash(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return plain_mix(value)


def plain_mix(value: int) -> int:
    z = (value + GAMMA) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_fnv1a64_gives_the_published_vectors():
    data = b"".join(FNV1A64)
    offsets = np.cumsum([0, *map(len, FNV1A64)])
    assert fnv1a64(offsets, np.frombuffer(data, np.uint8)).tolist() == list(FNV1A64.values())


def test_splitmix64_gives_the_published_stream():
    states = np.array([(1234567 + i * GAMMA) % 2**64 for i in range(5)], np.uint64)
    assert splitmix64(states).tolist() == SPLITMIX64


@pytest.mark.parametrize("arrow_type", [pa.string(), pa.large_string()])
def test_string_hashes_are_of_the_utf8_bytes(arrow_type):
    assert hash_ids(pa.array(WORDS, arrow_type)).tolist() == [plain_hash(word) for word in WORDS]


def test_int64_hashes_cover_the_whole_range():
    ids = [0, 1, -1, 2**63 - 1, -(2**63)]
    assert hash_ids(pa.array(ids, pa.int64())).tolist() == [plain_mix(i % 2**64) for i in ids]


@pytest.mark.parametrize("values", [WORDS, list(range(7))])
@pytest.mark.parametrize(("start", "length"), [(0, 0), (2, 3), (5, 2), (7, 0)])
def test_a_slice_hashes_as_its_elements(values, start, length):
    ids = pa.array(values)
    np.testing.assert_array_equal(hash_ids(ids.slice(start, length)), hash_ids(ids)[start : start + length])


@pytest.mark.parametrize("arrow_type", [pa.string(), pa.large_string(), pa.int64()])
def test_no_ids_give_no_hashes(arrow_type):
    assert hash_ids(pa.array([], arrow_type)).tolist() == []


def test_integers_and_their_digits_differ():
    assert hash_ids(pa.array([7]))[0] != hash_ids(pa.array(["7"]))[0]


@pytest.mark.parametrize(
    ("ids", "found"),
    [(pa.array(["a", None]), "1 null"), (pa.array([1.5]), "double"), (pa.array([1], pa.int32()), "int32")],
)
def test_other_ids_are_refused_by_name(ids, found):
    with pytest.raises(InputError, match=found):
        hash_ids(ids)


def test_another_process_gives_the_same_hashes():
    """Python's own hash of strings does not pass this."""
    code = """
import pyarrow as pa
from lakefactor.kernels import hash_ids
print(hash_ids(pa.array(["a", "Zo\\xeb"])).tolist())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": "1"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == str([plain_hash("a"), plain_hash("Zoë")])
