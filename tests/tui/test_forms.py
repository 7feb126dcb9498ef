"""What is typed into dialogs: read, checked by the runtime, turned into options. No screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import MachinenError
from machinen_runtime.option_types import LiveMount, Mount, PortForward
from machinen_tui import form_fields as read
from machinen_tui.forms import Form, Problem, with_values
from machinen_tui.sandbox_forms import (
    boot_form,
    copy_form,
    fork_form,
    rename_form,
    restore_form,
    snapshot_form,
)
from machinen_tui.wanted import (
    MEMORY_PATIENCE_MS,
    NewSandbox,
    WantedFork,
    WantedRestore,
    WantedSnapshot,
)
from vmm.limits import Limits

FORMS: list[Form[object]] = [
    boot_form({"web"}),
    fork_form("web", {"web"}, "/snapshots/web-fork"),
    snapshot_form("web", "/snapshots/web"),
    restore_form(Path("/snapshots/web"), "web", {"web"}, "/:/mnt/src:ro"),
    copy_form("web"),
    rename_form("web", {"web", "db"}),
]  # pyright: ignore[reportAssignmentType]


def answered(form: Form[object], **typed: str) -> object:
    """What the form makes of `typed`; the other fields are untouched."""
    return form.answer({**form.defaults(), **typed})


def problem(form: Form[object], **typed: str) -> Problem:
    found = answered(form, **typed)
    assert isinstance(found, Problem), found
    return found


def test_an_untouched_boot_form_asks_for_a_sandbox_with_every_default() -> None:
    wanted = answered(FORMS[0])
    assert isinstance(wanted, NewSandbox)
    assert wanted.options() == {"detached": True} == NewSandbox().options()


def test_every_field_of_the_boot_form_reaches_boot(tmp_path: Path) -> None:
    image = tmp_path / "image.tar.gz"
    image.touch()
    wanted = answered(
        FORMS[0],
        name="box",
        cmd="python3 -c 'print(1)'",
        memory="512",
        cpus="2",
        image=str(image),
        env="A=1 B='two words'",
        network="example.org, *.example.com",
        ports="8080:80 0.0.0.0:2222:22",
        mount=f"{tmp_path}:/mnt/data",
        live=f"{tmp_path}:/mnt/src:ro {tmp_path}:/mnt/out",
        root="in memory",
        stays="it ends",
    )
    assert isinstance(wanted, NewSandbox)
    assert wanted.name == "box"
    assert wanted.options() == {
        "cmd": ["python3", "-c", "print(1)"],
        "memory": 512,
        "cpus": 2,
        "image": image,
        "env": {"A": "1", "B": "two words"},
        "network": ["example.org", "*.example.com"],
        "port_forward": [
            PortForward(host_port=8080, guest_port=80),
            PortForward(host_port=2222, guest_port=22, host_addr="0.0.0.0"),
        ],
        "mount": Mount(host=str(tmp_path), guest="/mnt/data"),
        "live_mounts": [
            LiveMount(host=str(tmp_path), guest="/mnt/src", mode="ro"),
            LiveMount(host=str(tmp_path), guest="/mnt/out", mode="rw"),
        ],
        "root_disk": False,
        "detached": False,
    }


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"name": "web"}, "name", "called web already"),
        ({"name": "-x"}, "name", "not a name for a VM"),
        ({"memory": "12"}, "memory", "at least 512"),
        ({"memory": "lots"}, "memory", "a number of MiB"),
        ({"cpus": "0"}, "cpus", "such as 2 or 0.5"),
        ({"cpus": "65"}, "cpus", "1 to 64"),
        ({"cpus": "half"}, "cpus", "such as 2 or 0.5"),
        ({"cpus": "inf"}, "cpus", "such as 2 or 0.5"),
        ({"memory_max": "much"}, "memory_max", "such as 512M"),
        ({"memory_max": "1M"}, "memory_max", "or 0 for none"),
        ({"io_max": "read=fast"}, "io_max", "such as 512M"),
        ({"io_max": "up=1M"}, "io_max", "read=50M,write=10M"),
        ({"cmd": "sh 'open"}, "cmd", "close every quote"),
        ({"image": "/nowhere.tar"}, "image", "no image"),
        ({"env": "PLAIN"}, "env", "KEY=VALUE"),
        ({"network": "http://x"}, "network", "http"),
        ({"ports": "80:eighty"}, "ports", "HOST:GUEST"),
        ({"ports": "8080:80 8080:81"}, "ports", "forwarded twice"),
        ({"ports": "70000:80"}, "ports", "65535"),
        ({"mount": "/tmp"}, "mount", "HOST:/mnt/GUEST"),
        ({"mount": "/tmp:/srv"}, "mount", "under /mnt/"),
        ({"live": "/no/such/place:/mnt/x"}, "live", "no such directory"),
    ],
)
def test_what_boot_would_refuse_is_refused_while_it_is_typed(
    typed: dict[str, str], field: str, words: str
) -> None:
    found = problem(FORMS[0], **typed)
    assert found.field == field
    assert words in found.text


def test_limits_of_the_boot_form_reach_boot() -> None:
    wanted = answered(FORMS[0], cpus="1.5", memory_max="2G", io_max="read=50M,write=10M")
    assert isinstance(wanted, NewSandbox)
    limits = Limits(
        cpus=1.5,
        memory_bytes=2 << 30,
        io_read_bytes_per_s=50 << 20,
        io_write_bytes_per_s=10 << 20,
    )
    assert wanted.options() == {"detached": True, "cpus": 2, "limits": limits}


def test_copies_are_held_to_limits_and_wait_for_memory_if_they_are_told_to() -> None:
    said = {"cpu_max": "0.5", "memory_max": "2G", "io_max": "50M", "wait": "waits for it"}
    limits = Limits(cpus=0.5, memory_bytes=2 << 30, io_bytes_per_s=50 << 20)
    for form in (FORMS[1], FORMS[3]):
        wanted = answered(form, **said)
        assert isinstance(wanted, WantedFork | WantedRestore)
        assert wanted.options()["limits"] == limits
        assert wanted.options()["wait_for_memory_ms"] == MEMORY_PATIENCE_MS
        assert problem(form, cpu_max="none").field == "cpu_max"
        assert problem(form, memory_max="1M").field == "memory_max"
    new = answered(FORMS[0], wait="waits for it")
    assert isinstance(new, NewSandbox)
    assert new.options() == {"detached": True, "wait_for_memory_ms": MEMORY_PATIENCE_MS}


def test_what_only_fields_together_do_wrong_is_found_too(tmp_path: Path) -> None:
    found = problem(FORMS[0], mount=f"{tmp_path}:/mnt/a", live=f"{tmp_path}:/mnt/a")
    assert "two mounts" in found.text
    assert "one fork" in problem(FORMS[1], count="2", ports="8080:80").text
    assert "called web" in problem(FORMS[1], count="1", name="web").text
    assert "criu only" in problem(FORMS[2], tcp="closed").text


def test_a_fork_asks_for_what_the_form_says() -> None:
    wanted = answered(FORMS[1], count="1", name="two", keep="is kept", lazy="at once",
                      engine="criu", tcp="kept", ports="8080:80")  # fmt: skip
    assert isinstance(wanted, WantedFork)
    assert problem(FORMS[1], network="http://x").field == "network"
    assert (wanted.count, wanted.name) == (1, "two")
    assert wanted.options() == {
        "out_dir": Path("/snapshots/web-fork"),
        "port_forward": [PortForward(host_port=8080, guest_port=80)],
        "detached": True,
        "engine": "criu",
        "lazy": False,
        "tcp_keep": True,
    }
    assert problem(FORMS[1], count="65").field == "count"


def test_a_snapshot_asks_for_engine_place_and_end(tmp_path: Path) -> None:
    wanted = answered(
        FORMS[2], engine="criu", after="it ends", directory=f"{tmp_path}/new", tcp="closed"
    )
    assert isinstance(wanted, WantedSnapshot)
    assert wanted.directory == f"{tmp_path}/new"
    assert wanted.options() == {"engine": "criu", "leave_running": False, "tcp_close": True}
    (tmp_path / "file").touch()
    assert "not empty" in problem(FORMS[2], directory=str(tmp_path)).text
    assert "make it first" in problem(FORMS[2], directory="/no/such/place").text


def test_a_restore_names_only_the_live_mounts_that_changed(tmp_path: Path) -> None:
    same = answered(FORMS[3], name="again", lazy="at once")
    assert isinstance(same, WantedRestore)
    assert same.live_mounts == []
    assert same.options() == {"snap_dir": Path("/snapshots/web"), "detached": True, "lazy": False}
    other = answered(FORMS[3], live=f"{tmp_path}:/mnt/src:ro")
    assert isinstance(other, WantedRestore)
    assert other.live_mounts == [LiveMount(host=str(tmp_path), guest="/mnt/src", mode="ro")]


def test_a_copy_goes_from_a_directory_that_is_there_to_an_absolute_path(tmp_path: Path) -> None:
    form = FORMS[4]
    assert problem(form, host="", guest="/root").field == "host"
    assert problem(form, host=str(tmp_path), guest="root").field == "guest"
    assert "there is no" in problem(form, host="/no/such", guest="/root").text
    out = {"direction": "out of the guest", "guest": "/root"}
    assert not isinstance(answered(form, host=str(tmp_path / "new"), **out), Problem)


def test_a_new_name_is_another_and_free() -> None:
    assert "already" in problem(FORMS[5]).text
    assert "already" in problem(FORMS[5], name="db").text
    assert answered(FORMS[5], name="new/name") == "new/name"


def test_earlier_values_fill_a_form_and_strange_ones_are_passed_over() -> None:
    filled = with_values(FORMS[0], {"memory": "600", "stays": "never", "no-such-field": "x"})
    assert filled.defaults()["memory"] == "600"
    assert filled.defaults()["stays"] == "it runs on"


@given(st.text(max_size=40))
def test_no_text_is_too_strange_for_a_field(text: str) -> None:
    for form in FORMS:
        for field in form.fields:
            answered(form, **{field.name: text})


@given(st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(["127.0.0.1", "::1", "::"]))
def test_a_port_is_spelled_as_it_is_read(host: int, guest: int, address: str) -> None:
    forward = PortForward(host_port=host, guest_port=guest, host_addr=address)
    assert read.ports(read.spelled_ports([forward])) == [forward]


def test_ports_and_networks_as_one_types_them() -> None:
    assert read.port("80") == PortForward(host_port=80, guest_port=80)
    assert read.wanted_port(":80") == read.wanted_port("0:80") == 80
    assert read.wanted_port("8080:80") == PortForward(host_port=8080, guest_port=80)
    with pytest.raises(MachinenError):
        read.wanted_port(":99999")
    assert read.address_of(read.port("0.0.0.0:80:80")) == "127.0.0.1:80"
    assert read.network("") == "full"
    assert read.network("example.org, *.example.com") == ["example.org", "*.example.com"]


def test_a_command_only_a_shell_can_read_is_given_to_one() -> None:
    assert read.command("ls -l 'a b'") == ["ls", "-l", "a b"]
    assert read.command("cd /srv && ls | wc") == ["/bin/sh", "-c", "cd /srv && ls | wc"]
