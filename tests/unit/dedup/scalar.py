"""MinHash of one text in plain Python, from the published descriptions: what the arrays are compared with."""

from __future__ import annotations

from collections.abc import Sequence

PRIME = (1 << 61) - 1


def murmur32(data: bytes, seed: int) -> int:
    mask = 0xFFFFFFFF

    def mix(word: int) -> int:
        word = word * 0xCC9E2D51 & mask
        return ((word << 15 | word >> 17) & mask) * 0x1B873593 & mask

    state = seed
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        state ^= mix(int.from_bytes(data[start : start + 4], "little"))
        state = ((state << 13 | state >> 19) & mask) * 5 + 0xE6546B64 & mask
    if data[whole:]:
        state ^= mix(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def murmur64(data: bytes, seed: int) -> int:
    """The first half of x64_128."""
    mask = (1 << 64) - 1
    one, two = 0x87C37B91114253D5, 0x4CF5AD432745937F

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> 64 - bits) & mask

    def last(word: int) -> int:
        word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & mask
        word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return word ^ word >> 33

    first = second = seed
    whole = len(data) // 16 * 16
    for start in range(0, whole, 16):
        low, high = (int.from_bytes(data[at : at + 8], "little") for at in (start, start + 8))
        first ^= rotated(low * one & mask, 31) * two & mask
        first = (rotated(first, 27) + second) * 5 + 0x52DCE729 & mask
        second ^= rotated(high * two & mask, 33) * one & mask
        second = (rotated(second, 31) + first) * 5 + 0x38495AB5 & mask
    low, high = (int.from_bytes(part, "little") for part in (data[whole : whole + 8], data[whole + 8 :]))
    second ^= rotated(high * two & mask, 33) * one & mask
    first ^= rotated(low * one & mask, 31) * two & mask
    first, second = first ^ len(data), second ^ len(data)
    first = first + second & mask
    second = second + first & mask
    return last(first) + last(second) & mask


def signature(
    text: str, factors: Sequence[int], summands: Sequence[int], width: int, seed: int, bits: int
) -> list[int]:
    if not text:
        return [0] * len(factors)
    mask = (1 << bits) - 1
    hash_of = murmur32 if bits == 32 else murmur64
    grams = {text[at : at + width].encode() for at in range(max(1, len(text) - width + 1))}
    hashes = [max(1, hash_of(gram, seed)) for gram in grams]
    return [min((h * a + b & mask) % PRIME & mask for h in hashes) for a, b in zip(factors, summands, strict=True)]


def groups(keys: Sequence[Sequence[bytes]]) -> set[frozenset[int]]:
    """Documents that are connected by equal keys at the same position: each pair is compared."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            item = parent[item]
        return item

    for right, one in enumerate(keys):
        for left in range(right):
            if any(mine == other for mine, other in zip(one, keys[left], strict=True)):
                parent[max(root(left), root(right))] = min(root(left), root(right))
    members: dict[int, set[int]] = {}
    for item in range(len(keys)):
        members.setdefault(root(item), set()).add(item)
    return {frozenset(each) for each in members.values() if len(each) > 1}
