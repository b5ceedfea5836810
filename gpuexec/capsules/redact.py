"""Which environment variables look like secrets, and how their values are kept out of what is written. Pure.

A variable is left out when its name has a word that secrets' names have (``HF_TOKEN``, ``apiKey``; not
``KEYBOARD``), or when its value has the form of one (a token's prefix, a URL with a password). Too much is
left out rather than too little: ``DESKTOP_SESSION`` is, and nothing is lost by it.

A secret also gets into tracebacks, log lines and pickles (a stage's ``runtime_env``), so values are masked
there. In a pickle that keeps the length, as its strings are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORDS = frozenset(
    (
        *("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "CREDENTIAL", "CRED"),
        *("AUTH", "OAUTH", "AUTHORIZATION", "COOKIE", "SESSION", "PRIVATE", "DSN", "JWT", "BEARER", "SAS"),
    )
)
_ENDINGS = (  # of words written together, such as PGPASSWORD
    *("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"),
    *("APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY"),
)
_NOT_SECRET = frozenset({"PWD", "OLDPWD"})  # working directories
_WORD = re.compile(r"[A-Za-z]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # "API" and "Key" of "APIKey"

_FORMS = re.compile(
    r"""
    (?<=://) [^\s/@:]* : \S{1,256} @                          # user:password@ of a URL
  | \b (?:AKIA|ASIA) [0-9A-Z]{16} \b                          # AWS
  | \b gh[pousr]_ \w{20,} | \b github_pat_ \w{20,}            # GitHub
  | \b glpat- [\w-]{16,}                                      # GitLab
  | \b hf_ \w{20,}                                            # Hugging Face
  | \b nvapi- [\w-]{20,}                                      # NVIDIA
  | \b sk- [\w-]{20,}                                         # OpenAI and others
  | \b xox[abeprs]- [\w-]{10,}                                # Slack
  | \b AIza [\w-]{35}                                         # Google
  | \b eyJ [\w-]{5,} \. [\w-]{5,} \. [\w-]*                   # JWT
  | -----BEGIN[ ][A-Z0-9 ]+-----  [^-]* (?: -----END[ ][A-Z0-9 ]+----- )?      # PEM
  | (?i: \b (?: password | passwd | pwd | accountkey | sharedaccesskey | secret | token ) = [^\s;&]{3,} )
    """,
    re.VERBOSE,
)

_MIN_LENGTH = 8  # characters; shorter values ("true", "1") stand in many places by chance
_PATH = re.compile(r"(?:~|\.\.?)/.*|/[A-Z]?[a-z]{2,}\d*/.*")  # of a socket or a key's file
_AMBIGUOUS = re.compile(r"[a-z_.]+|[\d.:,\s-]+")  # may be a Python name that the pickle needs, or any number


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable should not be written down."""
    return _named_like_one(name) or _FORMS.search(value) is not None


def split_environment(environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables that may be written, and the names of those left out, sorted.

    A kept value that contains a secret one is masked.
    """
    secrets = secrets_in(environ)
    kept = {name: mask_text(value, secrets) for name, value in environ.items() if name not in secrets}
    return kept, tuple(sorted(secrets))


def secrets_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that look like secrets."""
    return {name: value for name, value in environ.items() if looks_secret(name, value)}


def mask_text(text: str, secrets: Mapping[str, str]) -> str:
    """Replace the values of ``secrets``, and whatever else has the form of one, by a remark."""
    for name, value in _distinct(secrets):
        text = text.replace(value, f"<{name} left out>")
    return _FORMS.sub("<secret left out>", text)


def mask_payload(payload: bytes, secrets: Mapping[str, str]) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Replace values of ``secrets`` by as many asterisks.

    Returns the payload, the names of the variables masked, and the names of those whose values are there
    but stay: they could just as well be a Python name that the pickle needs (a password "password") or any number.
    """
    masked, kept = [], []
    for name, value in _distinct(secrets):
        raw = value.encode(errors="surrogateescape")
        if raw not in payload:
            continue
        if _AMBIGUOUS.fullmatch(value):
            kept.append(name)
        else:
            payload = payload.replace(raw, b"*" * len(raw))
            masked.append(name)
    return payload, tuple(dict.fromkeys(masked)), tuple(dict.fromkeys(kept))


def _named_like_one(name: str) -> bool:
    if name.upper() in _NOT_SECRET:
        return False
    return any(
        form in _WORDS or form.endswith(_ENDINGS)
        for word in (*_WORD.findall(name), *_CAMEL.findall(name))
        for form in (word.upper(), word.upper().removesuffix("S"))
    )


def _distinct(secrets: Mapping[str, str]) -> list[tuple[str, str]]:
    """Values that can be recognised in other text, and their lines, the longest first: one may hold another."""
    parts = {
        (name, part.strip())
        for name, value in secrets.items()
        for part in (value, *value.splitlines())
        if len(part.strip()) >= _MIN_LENGTH and not _PATH.fullmatch(part.strip())
    }
    return sorted(parts, key=lambda part: (-len(part[1]), part))
