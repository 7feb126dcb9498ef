"""`machinen install`: what it makes, that it resumes, and that it can be interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

import machinen_runtime.install
from machinen_runtime import install_apt
from machinen_runtime.assets import (
    default_base_dir,
    resolve_base_disk,
    resolve_base_kernel,
    resolve_base_rootfs,
    resolve_mount_modules_dir,
)
from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.initramfs import read_modules
from machinen_runtime.install import (
    InstallResult,
    install,
    install_lock,
    is_complete,
)
from machinen_runtime.install_apt import Mirror, PrivateApt, pick_mirror
from machinen_runtime.install_kernel import (
    decompress_payload,
    extract_kernel,
    module_dependencies,
)
from machinen_runtime.install_rootfs import mmdebstrap_argv, write_extra_files
from machinen_runtime.install_workdir import remove_unmounted
from tests.runtime.fake_debian import (
    KERNEL_VERSION,
    FakeDebian,
    build_bzimage,
    build_module,
    build_vmlinux,
)

DISK_BYTES = 16 << 20
DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'
INDEX_URIS = """\
'http://mirror.invalid/security/dists/bookworm-security/InRelease' x_InRelease 0
'http://mirror.invalid/debian/dists/bookworm-backports/InRelease' y_InRelease 0
'http://other.invalid/dists/nodistro/InRelease' z_InRelease 0
'http://mirror.invalid/debian/dists/bookworm/InRelease' w_InRelease 0
'http://mirror.invalid/debian/dists/bookworm/main/binary-amd64/Packages.xz' w_Packages 0
"""


@pytest.fixture
def debian(machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDebian:
    fake = FakeDebian(tmp_path / "debian")
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(install_apt, "KEYRING", keyring)
    monkeypatch.setenv("PATH", f"{fake.bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("MACHINEN_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    monkeypatch.delenv("MACHINEN_ASSETS_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers the last answer
    monkeypatch.setattr(machinen_runtime.install, "MIN_DISK_BYTES", DISK_BYTES)
    return fake


def run_install(*, force: bool = False) -> tuple[InstallResult, str]:
    output = io.StringIO()
    return install(force=force, console=Console(file=output)), output.getvalue()


def test_an_install_makes_everything_a_boot_resolves(debian: FakeDebian) -> None:
    result, output = run_install()
    assert result.changed
    assert resolve_base_kernel().read_bytes()[:4] == b"\x7fELF"
    assert list(read_modules(result.base_dir / "modules")) == [
        "virtio_blk.ko",
        "failover.ko",
        "net_failover.ko",
        "virtio_net.ko",
        "virtio_balloon.ko",
        "virtio_rng.ko",
    ]
    assert list(read_modules(resolve_mount_modules_dir())) == ["squashfs.ko", "overlay.ko"]
    assert resolve_base_rootfs().stat().st_size > 0
    disk = resolve_base_disk()
    assert disk.name == result.meta["disk"]
    assert disk.stat().st_mode & 0o222 == 0, "nobody may write to it by mistake"
    assert result.meta["kernel_version"] == KERNEL_VERSION
    assert result.meta["assets"]["rootfs.ext4"]["size_bytes"] == DISK_BYTES
    assert "Base disk: done" in output
    expected = [".lock", ".steps", "meta.json", "modules", "modules-mount"]
    names = {path.name for path in result.base_dir.iterdir()}
    disks = ("rootfs.ext4", "rootfs.tar.gz", disk.name)
    assert names == {*expected, *disks, resolve_base_kernel().name}


def test_a_second_run_does_nothing_and_needs_no_network(debian: FakeDebian) -> None:
    run_install()
    debian.forget_calls()
    result, output = run_install()
    assert not result.changed
    assert result.meta["kernel_version"] == KERNEL_VERSION
    assert debian.calls() == []
    assert output == ""


def test_on_a_terminal_every_step_has_a_bar_that_fills(debian: FakeDebian) -> None:
    output = io.StringIO()
    install(console=Console(file=output, force_terminal=True, width=80))
    shown = output.getvalue()
    for title in ("Kernel and modules", "Base root", "Base disk"):
        assert title in shown
    assert shown.count("100 %") >= 3


@pytest.mark.provokes(ErrorCode.PROVISION_INSTALL_HOOK_FAILED)
def test_a_failed_step_is_resumed_without_repeating_the_others(debian: FakeDebian) -> None:
    debian.fail_root(True)
    with pytest.raises(ProvisionError, match="on fire") as caught:
        run_install()
    assert caught.value.retryable
    assert not is_complete(default_base_dir())
    assert not list(default_base_dir().glob(".tmp-*"))
    debian.fail_root(False)
    debian.forget_calls()
    result, output = run_install()
    assert result.changed
    assert "Kernel and modules: done before" in output
    assert debian.calls().count("apt-get") == 1, "one update, no download"
    assert is_complete(default_base_dir())


@pytest.mark.parametrize(
    "name", ["vmlinux", "rootfs.tar.gz", "rootfs.ext4", "modules/load", "modules-mount/load"]
)
def test_what_is_lost_is_made_again(debian: FakeDebian, name: str) -> None:
    result, _ = run_install()
    (result.base_dir / name).unlink()
    assert not is_complete(result.base_dir)
    assert run_install()[0].changed
    assert (result.base_dir / name).exists()
    assert is_complete(result.base_dir)


def test_a_lost_disk_alone_needs_no_network(debian: FakeDebian) -> None:
    result, _ = run_install()
    (result.base_dir / "rootfs.ext4").unlink()
    debian.forget_calls()
    run_install()
    assert debian.calls() == []


def test_force_makes_everything_again_and_keeps_disks_in_use(debian: FakeDebian) -> None:
    run_install()
    first = resolve_base_disk()
    run_install(force=True)
    assert first.exists(), "overlays and bundles may read through it"
    assert debian.calls().count("mmdebstrap") == 2


def test_two_installs_at_once_are_refused(debian: FakeDebian) -> None:
    base_dir = default_base_dir()
    base_dir.mkdir(parents=True)
    with install_lock(base_dir), pytest.raises(ProvisionError, match=str(os.getpid())) as caught:
        run_install()
    assert caught.value.retryable
    assert run_install()[0].changed, "the lock is free again"


def test_a_killed_install_leaves_only_what_the_next_run_removes(
    debian: FakeDebian, tmp_path: Path
) -> None:
    """mmdebstrap never ends; the installer is killed while it waits, then run again."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = debian.bin_dir / "mmdebstrap"
    quick = slow.read_text()
    slow.write_text(f"#!/bin/sh\necho reached >{gate}\nexec sleep 60\n")
    script = (
        "from machinen_runtime import install_apt; from pathlib import Path\n"
        f"install_apt.KEYRING = Path({str(install_apt.KEYRING)!r})\n"
        "from machinen_runtime.install import install; install()"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True
    )
    with gate.open() as reached:
        assert reached.read() == "reached\n"
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    base_dir = default_base_dir()
    assert list(base_dir.glob(".tmp-*")), "killed in the middle of its work"
    slow.write_text(quick)
    assert run_install()[0].changed
    assert not list(base_dir.glob(".tmp-*"))
    assert not list(tmp_path.glob("machinen-install-*"))


def test_what_is_mounted_below_is_named_and_not_reached_into(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "chroot/proc").mkdir(parents=True)
    (work / "file").touch()
    mountinfo = f"36 35 0:32 / {work}/chroot/proc ro - proc proc ro\n"
    with pytest.raises(ProvisionError, match=f"umount {work}/chroot/proc"):
        remove_unmounted(work, mountinfo)
    assert (work / "file").exists()
    remove_unmounted(work, "36 35 0:32 / /elsewhere ro - proc proc ro\n")
    assert not work.exists()


def test_the_guest_uses_the_hosts_own_mirror() -> None:
    mirror = pick_mirror(DEBIAN_12, INDEX_URIS)
    assert mirror is not None
    assert mirror == Mirror("http://mirror.invalid/debian/", "http://mirror.invalid/security/")
    sources = mirror.sources("trixie")
    assert "Suites: trixie trixie-updates\n" in sources
    assert "URIs: http://mirror.invalid/security/\nSuites: trixie-security\n" in sources


@pytest.mark.parametrize(
    ("os_release", "index_uris"),
    [
        (
            "ID=ubuntu\nVERSION_CODENAME=noble\n",
            "'http://mirror.invalid/ubuntu/dists/noble/InRelease' x 0\n",
        ),
        (DEBIAN_12, "'http://other.invalid/dists/nodistro/InRelease' x 0\n"),
    ],
)
def test_a_host_without_debian_sources_has_no_mirror(os_release: str, index_uris: str) -> None:
    assert pick_mirror(os_release, index_uris) is None


def test_without_a_keyring_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_apt, "KEYRING", tmp_path / "none")
    with pytest.raises(ProvisionError, match="debian-archive-keyring"):
        PrivateApt(tmp_path, "trixie", "amd64").update(Mirror("http://mirror.invalid", None))


@pytest.mark.parametrize("compression", ["zstd", "gzip", "xz"])
def test_the_kernel_is_found_in_a_bzimage(tmp_path: Path, compression: str) -> None:
    vmlinux = build_vmlinux(tmp_path)
    bzimage = build_bzimage(vmlinux, compression=compression)
    assert extract_kernel(bzimage, "amd64") == vmlinux


def test_a_kernel_without_pvh_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="PVH") as caught:
        extract_kernel(build_bzimage(build_vmlinux(tmp_path, note_type=1)), "amd64")
    assert caught.value.code is ErrorCode.PROVISION_KERNEL_NOT_FOUND


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b"MZ" + b"\0" * 2000])
def test_what_is_no_bzimage_is_refused(damage: bytes) -> None:
    with pytest.raises(ProvisionError, match="setup header"):
        extract_kernel(damage, "amd64")


def test_a_cut_bzimage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="outside"):
        extract_kernel(build_bzimage(build_vmlinux(tmp_path))[:-400], "amd64")


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(ProvisionError, match="6162"):
        decompress_payload(b"abcd", size_word=False)


def test_an_arm64_image_is_taken_plain_gzipped_or_out_of_zboot(tmp_path: Path) -> None:
    image = bytes(56) + b"ARM\x64" + bytes(1000)
    gzipped = subprocess.run(["gzip", "-c"], input=image, capture_output=True, check=True).stdout
    offset, size = (64).to_bytes(4, "little"), len(gzipped).to_bytes(4, "little")
    zboot = (b"MZ\0\0zimg" + offset + size).ljust(64, b"\0") + gzipped
    for vmlinuz in (image, gzipped, zboot):
        assert extract_kernel(vmlinuz, "arm64") == image
    with pytest.raises(ProvisionError, match="arm64"):
        extract_kernel(bytes(2000), "arm64")


@pytest.mark.parametrize(
    ("depends", "expected"),
    [("", []), ("failover", ["failover"]), ("a-b,c", ["a_b", "c"])],
)
def test_a_modules_dependencies_are_read(tmp_path: Path, depends: str, expected: list[str]) -> None:
    assert module_dependencies(build_module(depends, tmp_path)) == expected


def test_the_root_gets_our_files_and_nothing_of_the_hosts(tmp_path: Path) -> None:
    archive = tmp_path / "extra.tar"
    modules = tmp_path / "tree/usr/lib/modules/6.99"
    modules.mkdir(parents=True)
    (modules / "x.ko").touch()
    write_extra_files(archive, "SOURCES", ("Acquire::Check-Date false;",), tmp_path / "tree")
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar}
        texts = {
            name: tar.extractfile(member).read().decode()  # pyright: ignore[reportOptionalMemberAccess]
            for name, member in members.items()
            if member.isfile()
        }
    assert texts["etc/apt/sources.list.d/debian.sources"] == "SOURCES"
    assert texts["etc/apt/apt.conf.d/90machinen-mirror"] == "Acquire::Check-Date false;\n"
    assert texts["etc/machine-id"] == ""
    assert "/proc/sys/kernel/hostname" in texts["root/.bashrc"]
    assert "usr/lib/modules/6.99/x.ko" in members
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}


def test_the_prompt_follows_the_hostname(tmp_path: Path) -> None:
    archive = tmp_path / "extra.tar"
    (tmp_path / "usr/lib/modules").mkdir(parents=True)
    write_extra_files(archive, "", (), tmp_path)
    with tarfile.open(archive) as tar:
        tar.extract("root/.bashrc", tmp_path, filter="data")
    # A fork's shell remembers the name of the sandbox it was forked from.
    script = '. root/.bashrc; HOSTNAME=stale; eval "$PROMPT_COMMAND"; echo "${PS1@P}"'
    shown = subprocess.run(
        ["bash", "--norc", "-ic", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,  # a prompt once looped for ever
    ).stdout
    assert Path("/proc/sys/kernel/hostname").read_text().strip() in shown
    assert "stale" not in shown


def test_mmdebstrap_is_given_every_package_and_hook(tmp_path: Path) -> None:
    argv = mmdebstrap_argv(
        tmp_path / "out.tar.gz", tmp_path / "s", tmp_path / "x.tar", "trixie", (), "6.99"
    )
    assert argv[0] == "mmdebstrap"
    assert argv[-3:] == ["trixie", str(tmp_path / "out.tar.gz"), str(tmp_path / "s")]
    (included,) = (option for option in argv if option.startswith("--include="))
    assert {"python3", "criu", "htop", "iproute2", "vim-tiny"} <= set(included[10:].split(","))
    assert '--customize-hook=chroot "$1" depmod 6.99' in argv


def test_meta_names_hashes_of_all_assets(debian: FakeDebian) -> None:
    result, _ = run_install()
    meta = json.loads((result.base_dir / "meta.json").read_text())
    assert meta == result.meta
    for name, asset in meta["assets"].items():
        path = result.base_dir / name
        assert asset["size_bytes"] == path.stat().st_size
        digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
        assert digest.stdout.split()[0] == asset["sha256"]
