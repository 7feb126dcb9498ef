"""What a request for a command says, as the monitor reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.spec import WorkloadSpec
from vmm.workload import is_plain_command, workload_request


@pytest.mark.parametrize(
    ("request_bytes", "is_plain"),
    [
        (b"RUN 9\narg=true\0", True),
        (b"RUN 9\narg=true\0I 0\n", True),
        (b"RUN 14\narg=pty=80x24\0", True),  # a word of the command's
        (b"RUN 19\narg=true\0pty=80x24\0", False),
        (b"RUN 13\nsession=main\0", False),
        (b"RUN 19\nsession=x\0attach=1\0", False),
        (b"RUN 9\narg=tr", False),  # the rest may ask for a terminal
        (b"RUN 99999999\n", False),
        (b"PTY 80 24 4\ntrue", False),
        (b"", False),
    ],
)
def test_a_command_is_plain_if_it_wants_no_terminal(request_bytes: bytes, is_plain: bool) -> None:
    assert is_plain_command(request_bytes) == is_plain


def test_the_workload_is_a_terminal() -> None:
    assert not is_plain_command(workload_request(WorkloadSpec(cmd=["true"])))


@given(st.binary(max_size=64), st.integers(0, 80))
def test_any_bytes_are_a_plain_command_or_not(fields: bytes, size: int) -> None:
    says_it_wants_none = is_plain_command(b"RUN %d\n" % size + fields)
    assert says_it_wants_none in (True, False)
    assert not says_it_wants_none or size <= len(fields)
