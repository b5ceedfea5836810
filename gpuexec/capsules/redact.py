"""Recognise environment variables that look like secrets, and keep their values out of what is written. Pure.

A variable is left out if a word of its name is one that names of secrets contain (``HF_TOKEN``, ``apiKey``; not
``KEYBOARD``) or ends like one (``PGPASSWORD``, ``KEYPASSPHRASE``), or if its value has the form of a secret (a token's
prefix, a URL with a password). When in doubt a variable is left out: losing ``DESKTOP_SESSION`` does no harm.

Secrets also get into tracebacks, log lines and pickles (a stage's ``runtime_env``), so their values are masked there.
In a pickle the mask has the length of the value, since a pickled string is preceded by its length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRET_WORDS = frozenset(
    (
        *("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "CREDENTIAL", "CRED"),
        *("AUTH", "OAUTH", "AUTHORIZATION", "COOKIE", "SESSION", "PRIVATE", "DSN", "JWT", "BEARER", "SAS"),
    )
)
SECRET_ENDINGS = (  # of words written together, such as PGPASSWORD
    *("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL"),
    *("APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY"),
)
_NOT_SECRET = frozenset({"PWD", "OLDPWD"})  # these hold working directories
_WORD = re.compile(r"[A-Za-z]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # "API" and "Key" of "APIKey"

_FORMS = re.compile(
    r"""
    (?<=://) [^\s/@:]* : \S{1,256} @                          # user:password@ in a URL
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
  | (?i: \b (?: password | passwd | pwd | accountkey | sharedaccesskey | secret | token ) =
      (?! <\S+[ ]left[ ]out> ) [^\s;&]{3,} )                    # unless a remark of ours stands there
    """,
    re.VERBOSE,
)

_MIN_LENGTH = 8  # characters; shorter values ("true", "1") occur in other text by chance
_PATH = re.compile(r"(?:~|\.\.?)/.*|/[A-Z]?[a-z]{2,}\d*/.*")  # of a socket or a key file
_AMBIGUOUS = re.compile(r"[a-z_.]+|[\d.:,\s-]+")  # could be a Python name that the pickle needs, or any number


def looks_secret(name: str, value: str) -> bool:
    """Return whether a variable must not be written down."""
    return _has_secret_name(name) or _FORMS.search(value) is not None


def secrets_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that look like secrets."""
    return {name: value for name, value in environ.items() if looks_secret(name, value)}


def mask_environment(environ: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are not among ``secrets``, with the values of ``secrets`` masked in theirs."""
    return {name: mask_text(value, secrets) for name, value in environ.items() if name not in secrets}


def mask_text(text: str, secrets: Mapping[str, str]) -> str:
    """Replace the values of ``secrets``, and anything else that has the form of a secret, by a remark."""
    for name, value in _recognisable_values(secrets):
        text = text.replace(value, f"<{name} left out>")
    return _FORMS.sub("<secret left out>", text)


def mask_payload(payload: bytes, secrets: Mapping[str, str]) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """Replace each value of ``secrets`` by as many asterisks.

    Return the payload, the names of the variables whose values were masked, and the names of those whose values occur
    but stay, because they could also be a Python name that the pickle needs (a password "password") or any number.
    """
    masked, kept = [], []
    for name, value in _recognisable_values(secrets):
        raw = value.encode(errors="surrogateescape")
        if raw not in payload:
            continue
        if _AMBIGUOUS.fullmatch(value):
            kept.append(name)
        else:
            payload = payload.replace(raw, b"*" * len(raw))
            masked.append(name)
    return payload, tuple(dict.fromkeys(masked)), tuple(dict.fromkeys(kept))


def _has_secret_name(name: str) -> bool:
    if name.upper() in _NOT_SECRET:
        return False
    return any(
        form in SECRET_WORDS or form.endswith(SECRET_ENDINGS)
        for word in (*_WORD.findall(name), *_CAMEL.findall(name))
        for form in (word.upper(), word.upper().removesuffix("S"))
    )


def _recognisable_values(secrets: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, value) of each value, and each line of one, that is long enough to be searched for in other text.

    The longest come first, since one value may contain another.
    """
    parts = {
        (name, part.strip())
        for name, value in secrets.items()
        for part in (value, *value.splitlines())
        if len(part.strip()) >= _MIN_LENGTH and not _PATH.fullmatch(part.strip())
    }
    return sorted(parts, key=lambda part: (-len(part[1]), part))
