from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpuexec.capsules.redact import (
    SECRET_ENDINGS,
    SECRET_WORDS,
    looks_secret,
    mask_environment,
    mask_payload,
    mask_text,
    secrets_in,
)

WORDS = sorted([*SECRET_WORDS, *(f"{word}S" for word in SECRET_WORDS)])
AROUND = st.text(string.ascii_uppercase, max_size=6)
CASES = st.sampled_from([str.upper, str.lower, str.capitalize, str.swapcase])
# A token's text is put together here, so that no scanner takes this file for a leak.
TOKENS = {
    "aws": "AKIA" + "ABCDEFGH12345678",
    "aws, temporary": "ASIA" + "ABCDEFGH12345678",
    "github": "ghp_" + "a1B2" * 9,
    "github, fine": "github_pat_" + "a1B2" * 9,
    "hugging face": "hf_" + "aB" * 17,
    "nvidia": "nvapi-" + "aB3-" * 16,
    "slack": "xoxb-" + "1234567890-abc",
    "jwt": "eyJ" + "hbGciOi.eyJ" + "zdWIiOi.c2lnbmF0dXJl",
    "pem": "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQ\n-----END " + "PRIVATE KEY-----",
    "url": "postgres://" + "me:hunter22@" + "db/x",
    "url without user": "redis://" + ":hunter22@" + "cache:6379",
    "libpq": "host=db password=" + "hunter22",
    "azure": "AccountName=x;AccountKey=" + "abc123==",
}


@given(before=AROUND, word=st.sampled_from(WORDS), after=AROUND, case=CASES, glue=st.sampled_from("_-.0 "))
def test_a_word_of_secrets_is_found_wherever_it_stands(before, word, after, case, glue):
    name = glue.join(filter(None, (before, word, after)))
    assume(name not in {"PWD", "OLDPWD"})
    assert looks_secret(case(name), "1")


@given(before=AROUND, ending=st.sampled_from(SECRET_ENDINGS), plural=st.sampled_from(["", "S"]), case=CASES)
def test_a_word_that_ends_like_one_of_secrets_is_found(before, ending, plural, case):
    assert looks_secret(case(before + ending + plural), "1")


@given(word=st.sampled_from(WORDS), rest=st.text(string.ascii_uppercase, min_size=1), case=CASES)
def test_a_word_that_only_begins_like_one_of_secrets_is_innocent(word, rest, case):
    name = word + rest
    for form in (name, name.removesuffix("S")):
        assume(form not in SECRET_WORDS and not form.endswith(SECRET_ENDINGS))
    assert not looks_secret(case(name), "1")


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "apiKey",
        "APIKey",
        "PGPASSWORD",
        "KEYPASSPHRASE",
        "AWS_SECRET_ACCESS_KEY",
        "SENTRY_DSN",
        "MYSQL_PWD",
        "DB_PASS",
        "npm_token2",
    ],
)
def test_names_of_secrets(name):
    assert looks_secret(name, "1")


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "KEYBOARD",
        "TOKENIZERS_PARALLELISM",
        "PWD",
        "OLDPWD",
        "GIT_AUTHOR_NAME",
        "MONKEY",
        "CUDA_VISIBLE_DEVICES",
        "PASSENGER",
    ],
)
def test_names_of_others(name):
    assert not looks_secret(name, "/usr/bin")


@pytest.mark.parametrize("kind", TOKENS)
def test_forms_of_secrets(kind):
    value = TOKENS[kind]
    assert looks_secret("PLAIN", f"x {value} y")
    assert not looks_secret("PLAIN", "https://example.org:8080/a?b=c")
    masked = mask_text(f"before {value} after", {})
    assert masked.startswith("before ")
    assert "hunter22" not in masked
    assert value.strip("-") not in masked
    assert mask_text(masked, {}) == masked


VALUES = st.text(string.ascii_letters + string.digits + "+=-", min_size=8, max_size=40)


@given(
    st.dictionaries(st.text(string.ascii_uppercase + "_", min_size=1, max_size=12), st.text(max_size=30), max_size=8)
)
def test_every_variable_is_kept_or_a_secret(environ):
    secrets = secrets_in(environ)
    kept = mask_environment(environ, secrets)
    assert set(kept) | set(secrets) == set(environ)
    assert not set(kept) & set(secrets)


@given(VALUES, st.text(max_size=40), st.text(max_size=40))
def test_a_secret_that_another_variable_repeats_is_masked_there(value, before, after):
    assume(any(map(str.isalpha, value)))
    environ = {"MY_TOKEN": value, "COMMAND": before + value + after}
    secrets = secrets_in(environ)
    assert "MY_TOKEN" in secrets
    assert value not in "".join(mask_environment(environ, secrets).values())


@given(VALUES, st.lists(st.one_of(st.text(), st.binary(), st.integers()), max_size=5))
def test_a_masked_pickle_is_still_one(value, others):
    assume(any(map(str.isdigit, value)) and any(map(str.isalpha, value)))
    payload, masked, stayed = mask_payload(pickle.dumps([*others, {"env": value}, value.encode()], 5), {"T": value})
    found = pickle.loads(payload)
    assert value.encode() not in payload
    assert found[-1] == b"*" * len(value)
    assert found[-2] == {"env": "*" * len(value)}
    assert (masked, stayed) == (("T",), ())
    if not any(isinstance(other, str | bytes) for other in others):
        assert found[:-2] == others


@pytest.mark.parametrize("value", ["1", "true", "/home/me/project", "12.5", "~/x/yyyyyyyy", "/tmp/ssh-Ab12/agent.7"])
def test_values_that_occur_by_chance_are_not_masked(value):
    assert mask_text(f"a {value} b", {"AUTH": value}) == f"a {value} b"
    assert mask_payload(value.encode(), {"AUTH": value}) == (value.encode(), (), ())


def test_a_value_that_could_be_a_python_name_stays_in_a_pickle_and_is_reported():
    assert mask_payload(b"..password..", {"DB_PASSWORD": "password"}) == (b"..password..", (), ("DB_PASSWORD",))
    assert mask_text("a password", {"DB_PASSWORD": "password"}) == "a <DB_PASSWORD left out>"


def test_a_number_stays_in_a_pickle_and_a_slash_makes_no_path():
    assert mask_payload(b"..12345678..", {"KEY": "12345678"}) == (b"..12345678..", (), ("KEY",))
    assert mask_text("/aB3dE/fGhIj", {"KEY": "/aB3dE/fGhIj"}) == "<KEY left out>"


def test_a_remark_is_not_masked_again():
    assert mask_text("password=hunter22 ok", {"DB_PASS": "hunter22"}) == "password=<DB_PASS left out> ok"
    assert mask_text("password=<hunter22 ok", {}) == "<secret left out> ok"


def test_the_longer_of_two_secrets_is_masked_first():
    secrets = {"A_KEY": "abcdefgh1", "B_KEY": "abcdefgh1-and-more"}
    assert mask_text("abcdefgh1-and-more", secrets) == "<B_KEY left out>"
