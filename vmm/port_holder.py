"""Who listens on a TCP port of the host, in words for an error message."""

from __future__ import annotations

from ipaddress import ip_address


def describe_holder(address: str, port: int) -> str:
    """`nginx (pid 123)`, or that it cannot be told: another user's processes do not show theirs."""
    import psutil  # only when something went wrong

    unknown = "a process of another user"
    if port == 0:
        return "connections to all other ports"
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return unknown
    for one in connections:
        if one.status != psutil.CONN_LISTEN or not one.laddr or one.pid is None:
            continue
        if one.laddr[1] != port or not _overlap(address, str(one.laddr[0])):
            continue
        try:
            return f"{psutil.Process(one.pid).name()} (pid {one.pid})"
        except psutil.Error:
            return f"pid {one.pid}"
    return unknown


def _overlap(wanted: str, held: str) -> bool:
    """Whether a listener on `held` keeps `wanted` from being listened on."""
    try:
        ours, theirs = ip_address(wanted), ip_address(held)
    except ValueError:
        return True
    return ours == theirs or ours.is_unspecified or theirs.is_unspecified
