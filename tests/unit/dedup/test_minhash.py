"""Signatures are those that cuDF computes on a GPU, and those of a plain loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.dedup import minhash
from gpuexec.dedup.minhash import MinHasher, permutations
from tests.unit.dedup.scalar import signature

# What cuDF's own tests expect of its GPU kernel: cpp/tests/text/minhash_tests.cpp, "Permuted" and
# "PermutedWide", and python/cudf/cudf/tests/text/test_text_methods.py.
TEXTS = [
    "doc 1",
    "this is doc 2",
    "doc 3",
    "d",
    "The quick brown fox jumpéd over the lazy brown dog.",
    "line six",
    "line seven",
    "line eight",
    "line nine",
    "line ten",
]
OF_TEXTS_32 = [
    [1392101586, 394869177, 811528444],
    [211415830, 187088503, 130291444],
    [2098117052, 394869177, 799753544],
    [2264583304, 2920538364, 3576493424],
    [253327882, 41747273, 302030804],
    [2109809594, 1017470651, 326988172],
    [1303819864, 850676747, 147107852],
    [736021564, 720812292, 1405158760],
    [902780242, 134064807, 1613944636],
    [547084870, 1748895564, 656501844],
]
OF_TEXTS_64 = [
    [827364888116975697, 1601854279692781452, 70500662054893256],
    [18312093741021833, 133793446674258329, 21974512489226198],
    [22474244732520567, 1638811775655358395, 949306297364502264],
    [1332357434996402861, 2157346081260151330, 676491718310205848],
    [65816830624808020, 43323600380520789, 63511816333816345],
    [629657184954525200, 49741036507643002, 97466271004074331],
    [301611977846331113, 101188874709594830, 97466271004074331],
    [121498891461700668, 171065800427907402, 97466271004074331],
    [54617739511834072, 231454301607238929, 97466271004074331],
    [576418665851990314, 231454301607238929, 97466271004074331],
]
LONG = ["x" * (2 << 10), "y" * (2 << 19)]
OF_LONG_32 = [[1731998032, 315359380, 3193688024], [1293098788, 2860992281, 133918478]]
OF_LONG_64 = [
    [1818322427062143853, 641024893347719371, 1769570368846988848],
    [1389920339306667795, 421787002125838902, 1759496674158703968],
]
SHORT = ["this is my", "favorite book", ""]
OF_SHORT_32 = [[1305480168, 462824406, 74608229], [32665385, 65330770, 97996155], [0, 0, 0]]
OF_SHORT_64 = [
    [105531920695060180, 172452388517576009, 316595762085180524],
    [35713768479063122, 71427536958126236, 58787297728258212],
    [0, 0, 0],
]


@pytest.mark.parametrize(
    ("texts", "first", "width", "kind", "expected"),
    [
        (TEXTS, 10, 4, np.uint32, OF_TEXTS_32),
        (TEXTS, 10, 4, np.uint64, OF_TEXTS_64),
        (LONG, 20, 4, np.uint32, OF_LONG_32),
        (LONG, 20, 4, np.uint64, OF_LONG_64),
        (SHORT, 1, 5, np.uint32, OF_SHORT_32),
        (SHORT, 1, 5, np.uint64, OF_SHORT_64),
    ],
)
def test_what_cudf_computes_on_a_gpu(texts, first, width, kind, expected):
    parameters = np.arange(first, first + 3, dtype=kind)
    assert MinHasher.with_parameters(parameters, parameters, width, 0).signatures(texts).tolist() == expected


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("abé€😀"), max_size=40), max_size=6),
    st.integers(2, 12),
    st.sampled_from([32, 64]),
)
def test_what_a_plain_loop_computes(texts: list[str], width: int, bits: int):
    factors, summands = permutations(4, 42, bits)
    expected = [signature(text, factors.tolist(), summands.tolist(), width, int(factors[0]), bits) for text in texts]
    assert MinHasher(4, width, 42, bits).signatures(texts).tolist() == expected


@given(st.text("abcé😀", min_size=1, max_size=200), st.integers(2, 9), st.integers(1, 40))
def test_a_text_cut_into_pieces_is_the_same_text(text: str, width: int, piece: int):
    hasher = MinHasher(6, width)
    at_once = hasher.signatures([text, "other"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "_PIECE", piece)
        patch.setattr(minhash, "_CHUNK", 2 * piece)
        assert np.array_equal(hasher.signatures([text, "other"]), at_once)


def test_memory_does_not_grow_with_the_text():
    hasher = MinHasher(4, 24)

    def peak(length: int) -> int:
        text = "gigantic " * (length // 9)
        hasher.signatures(["warm up"])
        tracemalloc.start()
        hasher.signatures([text])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(2_000_000) < 1.5 * peak(500_000)


def test_permutations_are_pairs_below_the_prime():
    for bits, prime in ((32, (1 << 31) - 1), (64, (1 << 61) - 1)):
        factors, summands = permutations(260, 42, bits)
        assert factors.min() >= 1
        assert factors.max() < prime > summands.max()
        assert len(set(factors.tolist())) == 260
        assert np.array_equal(permutations(10, 42, bits)[1], summands[:10])


def test_lone_surrogates_have_a_signature():
    assert MinHasher(3, 4).signatures(["\ud800 in JSON"]).shape == (1, 3)


def test_similar_texts_share_about_as_many_minima_as_n_grams():
    words = [f"word{number}" for number in range(400)]
    one, other = " ".join(words), " ".join(words[:360] + ["new"] * 40)
    grams = [{text[at : at + 24] for at in range(len(text) - 23)} for text in (one, other)]
    similarity = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
    signatures = MinHasher(1000).signatures([one, other])
    assert abs((signatures[0] == signatures[1]).mean() - similarity) < 0.06
