"""MODULE_OR_FILE:OBJECT and KEY=VALUE, and the messages about wrong ones."""

from __future__ import annotations

import ast
import dataclasses
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from gpuexec import ConfigurationError, Pipeline
from gpuexec.cli.options import option_facts, option_lines
from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.config import ExecutorConfig
from gpuexec.executors.target import load_pipeline
from gpuexec.executors.values import read_seconds

MODULE = """
from gpuexec import Pipeline
from tests.process.stages import Range

pipeline = Pipeline("fixed", stages=[Range(3)])
number = 3

def make(count: int = 2, *, name):
    return Pipeline(name, stages=[Range(count)])

def loose(**settings):
    return Pipeline(str(settings), stages=[Range(1)])

def typed(flag: bool = None, size: "int" = None, names: list[str] = None, maybe: "Optional[float]" = None,
          text: str = None, by_default=True, count=1, mapping: "typing.Mapping[str, int] | None" = None):
    given = {k: v for k, v in locals().items() if v is not None and (k, v) not in (("by_default", True), ("count", 1))}
    return Pipeline(str(given or {"maybe": None}), stages=[Range(1)])

def number_of():
    return 3

def broken():
    raise LookupError("inside")
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "target_module.py"
    path.write_text(MODULE)
    yield str(path)
    sys.modules.pop("target_module", None)


def test_a_file_and_a_module(target, monkeypatch):
    assert load_pipeline(f"{target}:pipeline", {}).name == "fixed"
    monkeypatch.chdir(Path(target).parent)
    assert load_pipeline("target_module:pipeline", {}).name == "fixed"


def test_a_function_gets_its_settings(target):
    made = load_pipeline(f"{target}:make", {"name": "n", "count": "5"})
    assert isinstance(made, Pipeline)
    assert (made.name, made.stages[0].count) == ("n", 5)
    assert load_pipeline(f"{target}:loose", {"a": "1"}).name == "{'a': 1}"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pipelin", {}, "has no 'pipelin'; did you mean 'pipeline'?"),
        ("number", {}, "is an object of type int, not a Pipeline"),
        ("make", {"name": "n", "cuont": "1"}, "make() has no parameter 'cuont'; did you mean 'count'?"),
        ("number_of", {}, "returned an object of type int, not a Pipeline"),
        ("make", {}, "make() requires name: add --set name=…"),
        ("pipeline", {"a": "1"}, "is a Pipeline, not a function, so --set has no effect: leave it out"),
    ],
)
def test_a_wrong_object(target, name, settings, message):
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(f"{target}:{name}", settings)
    assert message in str(caught.value)


def test_an_error_inside_passes_through(target):
    with pytest.raises(LookupError, match="inside"):
        load_pipeline(f"{target}:broken", {})


@pytest.mark.parametrize(
    ("target_name", "message"),
    [
        ("justaname", "must be MODULE:OBJECT or FILE.py:OBJECT"),
        (":pipeline", "must be MODULE:OBJECT"),
        ("no/such/file.py:pipeline", "there is no file 'no/such/file.py'"),
        ("no_such_module:pipeline", "there is no module 'no_such_module'"),
    ],
)
def test_a_wrong_module_or_file(target_name, message, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(target_name, {})
    assert message in str(caught.value)


def test_settings_without_a_type_are_literals_or_text(target):
    given = ["a=1", "b=1.5", "c=text", "d=[1, 2]", "e=None", "f=x=y", "g=", "h=false"]
    expected = {"a": 1, "b": 1.5, "c": "text", "d": [1, 2], "e": None, "f": "x=y", "g": "", "h": False}
    assert load_pipeline(f"{target}:loose", parse_settings(given)).name == str(expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("flag=false", False),
        ("flag=yes", True),
        ("size=100MB", 100_000_000),
        ("size=2GiB", 2 << 30),
        ("size=1_000", 1000),
        ("names=a,b", ["a", "b"]),
        ("names=a", ["a"]),
        ("names=['a', 'b']", ["a", "b"]),
        ("maybe=none", None),
        ("maybe=0.5", 0.5),
        ("text=2024", "2024"),
        ("text=false", "false"),
        ("by_default=no", False),
        ("count=3", 3),
        ("mapping={'a': 1}", {"a": 1}),
    ],
)
def test_a_setting_is_read_as_the_type_that_the_function_declares(target, setting, value):
    (key,) = settings = parse_settings([setting])
    assert ast.literal_eval(load_pipeline(f"{target}:typed", settings).name) == {key: value}


def test_a_setting_of_another_type_is_refused(target):
    with pytest.raises(ConfigurationError, match="--set flag='maybe': it must be true or false"):
        load_pipeline(f"{target}:typed", {"flag": "maybe"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queue_bytes=100MB", 100_000_000),
        ("queue_bytes=1.5G", 3 << 29),
        ("show_progress=false", False),
        ("show_progress=On", True),
        ("retry_on=ConnectionError,TimeoutError", ("ConnectionError", "TimeoutError")),
        ("retry_on=ConnectionError", ("ConnectionError",)),
        ("batch_timeout_s=10min", 600.0),
        ("batch_timeout_s=None", None),
        ("memory_high_watermark=80%", 0.8),
        ("cpus=", None),
        ("capsule_dir=", ""),
        ("checkpoint=2024", "2024"),
        ("runtime_env={'env_vars': {'A': '1'}}", {"env_vars": {"A": "1"}}),
    ],
)
def test_an_option_is_read_as_its_type(option, value):
    config = ExecutorConfig.create(parse_options([option]))
    assert getattr(config, option.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("show_progress=maybe", "--option show_progress='maybe': it must be true or false"),
        ("queue_tasks=many", "--option queue_tasks='many': it must be a whole number"),
        ("queue_tasks=1.5", "it must be a whole number"),
        ("reserved_cpus=1.2.3", "it must be a number"),
        ("runtime_env=x", "it must be a mapping"),
        ("runtime_env=" + "[" * 10_000, "it must be a mapping"),
        ("queue_tasks=inf", "it must be a whole number"),
        ("queue_tasks=1e400", "it must be a whole number"),
    ],
)
def test_an_option_of_another_type_is_refused(option, message):
    with pytest.raises(ConfigurationError) as caught:
        parse_options([option])
    assert message in str(caught.value)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_option_is_listed_with_its_type_default_and_meaning(width):
    options = option_facts()
    assert [option["name"] for option in options] == [field.name for field in dataclasses.fields(ExecutorConfig)]
    for option in options:
        heading, *meaning = text = list(option_lines(option, width))
        assert max(map(len, text)) <= width
        assert heading.startswith(f"{option['name']}: ")
        assert "default" in " ".join(text)
        assert option["meaning"] in " ".join(line.strip() for line in meaning)


@pytest.mark.parametrize("wrong", ["a", "=1", "a b=1", "1a=2"])
def test_a_setting_without_a_key(wrong):
    with pytest.raises(ConfigurationError, match="must be KEY=VALUE"):
        parse_settings([wrong])


@pytest.mark.parametrize(
    ("name", "message"),
    [("json.py", "another module is called 'json'; rename the file"), ("my.pipe.py", "Python identifier")],
)
def test_a_file_whose_name_cannot_be_imported(tmp_path: Path, monkeypatch, name, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / name).write_text(MODULE)
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(f"{tmp_path / name}:pipeline", {})
    assert message in str(caught.value)


def test_an_import_error_inside_the_module_passes_through(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "cudfz_pipeline.py").write_text("import cudfz")
    with pytest.raises(ModuleNotFoundError, match="No module named 'cudfz'"):
        load_pipeline("cudfz_pipeline:pipeline", {})


def test_the_option_at_fault_is_named():
    with pytest.raises(ConfigurationError, match="--option 'reserved' must be"):
        parse_settings(["reserved"], "--option")


@pytest.mark.parametrize("as_file", [True, False])
def test_the_targets_folder_comes_first_but_hides_no_standard_module(target, tmp_path, monkeypatch, as_file):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (tmp_path / "wave.py", tmp_path / "helper_module.py", elsewhere / "helper_module.py"):
        path.touch()
    sys.path.insert(0, str(elsewhere))
    monkeypatch.chdir(tmp_path)
    load_pipeline(f"{target}:pipeline" if as_file else "target_module:pipeline", {})
    standard, helper = (PathFinder.find_spec(name) for name in ("wave", "helper_module"))
    assert standard is not None
    assert standard.origin != str(tmp_path / "wave.py")
    assert helper is not None
    assert helper.origin == str(tmp_path / "helper_module.py")


def test_options_of_single_stages():
    options = ["a.b.max_attempts=5", "a.b.retry_on=OSError,ValueError", "queue_bytes=1k", "read.batch_timeout_s=2min"]
    assert parse_options(options) == {
        "queue_bytes": 1024,
        "stage_options": {
            "a.b": {"max_attempts": 5, "retry_on": ("OSError", "ValueError")},
            "read": {"batch_timeout_s": 120},
        },
    }
    both = parse_options(["stage_options={'read': {'max_attempts': 1}}", "write.max_attempts=2"])
    assert both == {"stage_options": {"read": {"max_attempts": 1}, "write": {"max_attempts": 2}}}
    with pytest.raises(ConfigurationError, match=r"--option read\.max_attempts='x': it must be a whole number"):
        parse_options(["read.max_attempts=x"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("20m", 1200), ("20min", 1200), ("2 h", 7200), ("500ms", 0.5)]
)
def test_times(text, seconds):
    assert read_seconds(text, where="it") == seconds


@pytest.mark.parametrize("text", ["", "soon", "20 mb", "m", "1,5s"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigurationError, match="--limit must be a time, such as 90s, 20m"):
        read_seconds(text, where="--limit")
