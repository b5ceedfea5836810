"""What a ``runtime_env`` asks for, compared with what is installed, in all its forms."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import packaging
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import ConfigurationError, LocalExecutor, Pipeline
from gpuexec.executors.environment_demands import PARTS, check_parts
from gpuexec.executors.installed import problem_of_conda
from gpuexec.stage.environment import CHECKED_PARTS
from tests.process.stages import Apply, items, same


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that makes a distribution appear as installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name: str, version: str, *lines: str, origin: dict | None = None) -> None:
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        )
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))

    return install


def problems(**runtime_env) -> list[str]:
    return [problem for _, _, problem in check_parts(runtime_env, "stage 's'")]


def problem(text: str) -> str | None:
    found = problems(pip=[text])
    return found[0] if found else None


VERSION = packaging.__version__


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["==", "!=", ">=", "<=", "<", ">", "~="]))
def test_versions_are_compared_as_pip_does(major, minor, operator):
    from packaging.specifiers import SpecifierSet

    bound = f"{operator}{major}.{minor}"
    met = SpecifierSet(bound).contains(VERSION, prereleases=True)
    assert (problem(f"packaging{bound}") is None) is met


@pytest.mark.parametrize(
    "text",
    [
        "packaging",
        "Packaging >= 1 ; python_version > '3'",
        "no-such-thing; sys_platform == 'amiga'",
        f"./wheels/packaging-{VERSION}-py3-none-any.whl",
        f"https://host.example/packaging-{VERSION}-py3-none-any.whl#sha256=00",
        f"packaging @ https://host.example/packaging-{VERSION}-py3-none-any.whl",
        f"packaging-{VERSION}.tar.gz",
        "--index-url https://host.example/simple",
        "packaging>=1 --hash=sha256:00",
    ],
)
def test_what_is_met(text):
    assert problem(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("packaging==0.1", f"packaging {VERSION} is installed"),
        ("no-such-thing", "no-such-thing is not installed"),
        ("packaging[fast]", "has no extra 'fast'"),
        ("./packaging-0.1-py3-none-any.whl", f"packaging {VERSION} is installed"),
        ("packaging @ git+https://host.example/packaging@main", "and not from there"),
        ("git+https://host.example/packaging", "nothing that is installed comes from there"),
        ("-e ./here", "nothing that is installed comes from there as an editable package"),
        ("a b c", "cannot be checked"),
        ("packaging===", "cannot be checked"),
        ("./odd.whl", "cannot be checked"),
    ],
)
def test_what_is_not(text, why):
    assert why in (problem(text) or "")


def test_an_extra_asks_for_what_it_needs(site):
    site("base", "2.0", "Provides-Extra: io", "Provides-Extra: all", "Requires-Dist: helper>=2; extra == 'io'",
         "Requires-Dist: base[io]; extra == 'all'", "Requires-Dist: other", )  # fmt: skip
    assert problem("base[io]") == "for its extra 'io', helper is not installed"
    assert problem("base[all]") == "for its extra 'all', for its extra 'io', helper is not installed"
    site("helper", "2.1")
    assert problem("base[io,all]") is None


def test_where_a_package_comes_from(site, tmp_path):
    commit = {"vcs": "git", "requested_revision": "v1", "commit_id": "abc"}
    site("remote", "1.0", origin={"url": "https://host.example/remote.git", "vcs_info": commit})
    for revision in ("", "@v1", "@abc"):
        assert problem(f"remote @ git+https://host.example/remote{revision}") is None
        assert problem(f"git+https://host.example/remote.git{revision}#egg=remote") is None
    assert "at abc" in (problem("remote @ git+https://host.example/remote@v2") or "")
    here = tmp_path / "mine"
    site("mine", "1.0", origin={"url": here.as_uri(), "dir_info": {"editable": True}})
    site("copy", "1.0", origin={"url": (tmp_path / "copy").as_uri(), "dir_info": {}})
    assert problem(f"-e {here}") is None
    assert problem(f"--editable={here}[extra]") is None
    assert problem(str(here)) is None
    assert problem(f"-e {tmp_path / 'copy'}") is not None


def test_files_of_requirements(tmp_path, monkeypatch):
    monkeypatch.setenv("WANTED", "no-such-thing")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("no-such-other>=2\n-r ../all.txt\n")
    (tmp_path / "bounds.txt").write_text("packaging<1\nno-such-bounded==1\n")
    (tmp_path / "all.txt").write_text(
        "--index-url https://host.example\n# comment\npackaging \\\n  >=1  # fine\n${WANTED}\n-r sub/more.txt\n"
        "--constraint=bounds.txt\n"
    )
    path = str(tmp_path / "all.txt")
    expected = ["no-such-thing is not installed", "no-such-other is not installed", f"packaging {VERSION} is installed"]
    assert problems(uv=path) == problems(uv={"packages": path}) == problems(pip=["-r " + path]) == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, "got 3"),
        ({"package": []}, "must have 'packages'"),
        ([3], "must be text, got 3"),
        ("none.txt", "cannot be read"),
    ],
)
def test_values_that_have_no_meaning(value, why):
    with pytest.raises(ConfigurationError, match=why):
        problems(pip=value)


MAJOR_MINOR = ".".join(platform.python_version_tuple()[:2])


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        (f"python={MAJOR_MINOR}", True),
        ("python 2.7", False),
        ("python>=3.8,<9", True),
        ("packaging", True),
        ("conda-forge::packaging>=1", True),
        (f"packaging={VERSION}", True),
        (f"packaging={VERSION}=py_0", True),
        (f"packaging {VERSION}", True),
        ("packaging=0.1.*", False),
        ("packaging==0.1", False),
        ("cudatoolkit=12", False),
        ("a|b", False),
    ],
)
def test_specifications_of_conda(text, is_met):
    assert (problem_of_conda(text) is None) is is_met
    assert (problems(conda={"dependencies": [text, {"pip": ["packaging"]}]}) == []) is is_met


def test_other_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "mine")
    met = {"working_dir": ".", "py_modules": [packaging, str(Path(packaging.__file__).parent)], "conda": "mine"}
    assert problems(**met, py_executable=sys.executable, container=None, env_vars={"A": "1"}) == []
    asked = {"working_dir": "/else", "py_modules": [str(tmp_path)], "conda": "yours", "py_executable": "python2"}
    assert len(problems(**asked, image_uri="x/y:1", container={"image": "z"}, java_jars=["a"], mpi={"x": 1})) == 8
    assert problems(conda={"dependencies": None}) == []
    for conda in (["numpy"], {"dependencies": "numpy"}):
        with pytest.raises(ConfigurationError, match=r"runtime_env\['conda'\] has no meaning"):
            problems(conda=conda)


def test_every_part_that_is_checked_is_known():
    assert set(PARTS) == CHECKED_PARTS


@pytest.mark.parametrize(
    ("runtime_env", "way_out"),
    [
        ({"pip": ["no-such-thing>=1"]}, f"run `{sys.executable} -m pip install 'no-such-thing>=1'`"),
        ({"uv": {"packages": ["no-such-thing"]}}, f"run `uv pip install --python {sys.executable} no-such-thing`"),
        ({"image_uri": "host/image"}, "run the whole program in that image"),
    ],
)
def test_a_run_is_refused_before_anything_starts_with_the_way_out(tmp_path, runtime_env, way_out):
    stage = Apply(same).with_(runtime_env=runtime_env)
    with pytest.raises(ConfigurationError) as caught:
        Pipeline("p", stages=[stage]).run(LocalExecutor(run_dir=str(tmp_path)), initial_tasks=items(1))
    assert "stage 'apply' asks for" in str(caught.value)
    assert way_out in str(caught.value)
    assert not list(tmp_path.iterdir())
