"""`tui.toml`: values are taken over or named as wrong, whatever is in the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_tui import config
from machinen_tui.config import FIELDS, Config, config_directory, config_from
from machinen_tui.config_command import config_command


def problems_of(text: str) -> list[str]:
    return [str(problem) for problem in config_from(tomllib.loads(text), "tui.toml")[1]]


def test_what_is_set_is_taken_over_and_the_rest_stays() -> None:
    read, problems = config_from({"look": {"theme": "light"}}, "tui.toml")
    assert (read.theme, read.accessible, problems) == ("light", False, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[look]\ntheme = "blue"', "tui.toml: look.theme: blue is not dark | light | ansi"),
        ("[look]\naccessible = 1", "look.accessible: 1 is not true | false"),
        ("[look]\nthem = 1", "look.them: there is no such setting; did you mean look.theme?"),
        ("theme = 1", "theme: there is no such setting"),
        ("[keys]\nfile = 3", "keys.file: 3 is not a path in quotes"),
        ("[look.theme]\na = 1", "look.theme: {'a': 1} is not dark"),
        ('[look]\ntheme = "\\u001b[31m"', "look.theme: ?[31m is not"),
    ],
)
def test_what_is_wrong_names_file_key_and_what_is_allowed(text: str, said: str) -> None:
    (problem,) = problems_of(text)
    assert said in problem


def test_every_default_passes_its_own_check_and_the_printed_file_is_the_defaults() -> None:
    printed = config.default_text()
    assert config_from(tomllib.loads(printed), "")[1] == []
    lines = [line[2:] if " = " in line else line for line in printed.splitlines()]
    read, problems = config_from(tomllib.loads("\n".join(lines)), "")
    assert problems == []
    assert read == Config()
    assert len(FIELDS) == sum(" = " in line for line in printed.splitlines())


def test_a_file_that_cannot_be_read_says_why_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tui.toml"
    assert config.read(path) == (Config(), [])
    for data, why in ((b"a = [", "is not TOML"), (b"\xff", "is not UTF-8"),
                      (b"#" * (config.MAX_BYTES + 1), "larger than 64 KiB")):  # fmt: skip
        path.write_bytes(data)
        read, (problem,) = config.read(path)
        assert read == Config()
        assert str(problem).startswith(f"{path}: {why}")
    path.unlink()
    path.mkdir()
    assert "cannot be read" in str(config.read(path)[1][0])


@given(st.binary(max_size=300))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    read, problems = config.read(path)
    assert read == Config() or not problems


SOME = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(FIELDS)), SOME)
def test_whatever_a_key_holds_it_is_allowed_or_a_problem(key: str, value: object) -> None:
    section, _, name = key.partition(".")
    read, problems = config_from({section: {name: value}}, "tui.toml")
    assert len(problems) + (getattr(read, FIELDS[key].name) == value or isinstance(value, list))


def test_the_directory_follows_xdg_unless_it_is_relative() -> None:
    assert config_directory({"XDG_CONFIG_HOME": "/x"}) == Path("/x/machinen")
    assert config_directory({"XDG_CONFIG_HOME": "x"}) == Path.home() / ".config" / "machinen"
    assert config_directory({}) == Path.home() / ".config" / "machinen"


def test_the_command_prints_checks_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    out: list[str] = []
    err: list[str] = []

    def run(*arguments: str) -> int:
        out.clear()
        err.clear()
        return config_command(arguments, out.append, err.append)

    assert run() == 0
    assert "[look]" in out[0]
    assert run("keys") == 0
    assert '# fork = "f"' in out[0]
    assert run("path") == 0
    assert out == [f"{tmp_path}/machinen/tui.toml\n{tmp_path}/machinen/keys.toml\n"]
    assert run("check") == 0
    assert run("nonsense") == 2
    (tmp_path / "machinen").mkdir()
    (tmp_path / "machinen" / "tui.toml").write_text('[keys]\nfile = "mine.toml"')
    assert run("check") == 1
    assert "keys.file: there is no such file" in err[0]
    (tmp_path / "machinen" / "mine.toml").write_text('[keys]\nfork = "x"\nsnapshot = "x"')
    assert run("check") == 1
    assert "keys.snapshot: x is taken by fork" in err[0]
    assert out == ["x does fork, no longer stop: it has no key now\n"]
