"""Claims: they arrive as they were sent, and what is none leaves nothing open."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.specs import make_spec
from vmm.claim import MAX_CLAIM_BYTES, Claim, ClaimReader, decode_claim, encode_claim
from vmm.errors import VmmError
from vmm.spec import VmSpec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> VmSpec:
    return make_spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def descriptors() -> Generator[list[int]]:
    """Of the kinds and in the order of a VM with a terminal."""
    opened = [*os.pipe(), os.open("/", os.O_PATH | os.O_DIRECTORY), *os.pipe(), os.dup(0)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def receive(data: bytes, descriptors: list[int], piece: int = 1 << 16) -> Any:
    """What a reader makes of `data`; it has nothing open afterwards but a claim's descriptors."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        reader = ClaimReader(theirs)
        try:
            for start in range(0, max(1, len(data)), piece):
                part = data[start : start + piece]
                if start == 0 and part and descriptors:
                    socket.send_fds(ours, [part], descriptors)
                else:
                    ours.sendall(part)
                if not part:
                    ours.shutdown(socket.SHUT_WR)
                if (claim := reader.read()) is not None:
                    return claim
            ours.shutdown(socket.SHUT_WR)
            return reader.read()
        finally:
            reader.close()


@pytest.mark.parametrize("piece", [1, 3, 100, 1 << 16])
@pytest.mark.parametrize("count", [3, 6])
def test_a_claim_arrives_as_it_was_sent(
    spec: VmSpec, descriptors: list[int], piece: int, count: int
) -> None:
    env = {"A": "b=c\n", "É": "\udcff"}
    before = open_files()
    claim = receive(encode_claim(spec, env, 0o022), descriptors[:count], piece)
    assert open_files() == before + count
    assert (claim.env, claim.umask) == (env, 0o022)
    assert (claim.spec.id, claim.spec.disk) == (spec.id, spec.disk)
    assert claim.spec.status_fd == claim.descriptors["status"]
    assert claim.spec.lifeline_fd == claim.descriptors["lifeline"]
    assert claim.spec.console_to_stderr is (count == 6)
    assert claim.spec.main_input_fd == claim.descriptors.get("input")
    for descriptor in claim.descriptors.values():
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_a_claim_without_all_its_descriptors_is_none(
    spec: VmSpec, descriptors: list[int], count: int
) -> None:
    before = open_files()
    with pytest.raises(VmmError):
        receive(encode_claim(spec, {}, 0), descriptors[:count])
    assert open_files() == before


def test_more_descriptors_than_there_are_names_for_are_closed(
    spec: VmSpec, descriptors: list[int]
) -> None:
    before = open_files()
    with pytest.raises(VmmError):
        receive(encode_claim(spec, {}, 0), descriptors * 20)
    assert open_files() == before


def test_a_working_directory_that_is_none_is_refused(
    spec: VmSpec, descriptors: list[int], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    no_directory = os.open(tmp_path / "file", os.O_PATH)
    with pytest.raises(VmmError, match="working directory"):
        receive(encode_claim(spec, {}, 0), [*descriptors[:2], no_directory])
    os.close(no_directory)


def test_a_claim_that_announces_too_much_is_refused_at_once(descriptors: list[int]) -> None:
    with pytest.raises(VmmError, match="too long"):
        receive((MAX_CLAIM_BYTES + 1).to_bytes(4, "little"), descriptors[:3])


def decoded(payload: bytes, descriptors: list[int]) -> Claim | None:
    """The claim; None if it is refused, in which case nothing else than that comes of it."""
    with suppress(VmmError):
        return decode_claim(payload, descriptors)
    return None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(data=st.binary(max_size=300), count=st.integers(0, 6), piece=st.integers(1, 300))
def test_any_bytes_are_a_claim_or_refused_and_leave_nothing_open(
    descriptors: list[int], data: bytes, count: int, piece: int
) -> None:
    before = open_files()
    with pytest.raises(VmmError):
        receive(data, descriptors[:count], piece)
    assert open_files() == before


@given(changes=st.dictionaries(st.sampled_from(["spec", "env", "umask", "more"]), json_values))
def test_any_values_in_the_place_of_the_right_ones_are_refused(
    spec: VmSpec, descriptors: list[int], changes: dict[str, Any]
) -> None:
    whole: dict[str, Any] = {"spec": json.loads(spec.to_json()), "env": {}, "umask": 0}
    payload = json.dumps({**whole, **changes}).encode()
    if (claim := decoded(payload, descriptors[:3])) is not None:
        assert all("\0" not in key + value for key, value in claim.env.items())
        assert 0 <= claim.umask <= 0o777


@given(field=st.sampled_from(["id", "name", "run_dir", "disk", "machine", "restore"]), value=...)
def test_any_field_of_the_spec_may_be_anything(
    spec: VmSpec, descriptors: list[int], field: str, value: bool | int | str | list[str] | None
) -> None:
    changed = {**json.loads(spec.to_json()), field: value}
    payload = json.dumps({"spec": changed, "env": {}, "umask": 0}).encode()
    if (claim := decoded(payload, descriptors[:3])) is not None:
        assert claim.spec.to_json()
