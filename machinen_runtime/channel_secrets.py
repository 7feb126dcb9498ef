"""Hand secrets to a guest as `/etc/machinen.env`, docs/protocol.md 3.4."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio

from machinen_runtime.argument_types import is_mapping, is_text
from machinen_runtime.channel_stream import ChannelUnavailableError, connect_channel
from machinen_runtime.errors import ErrorCode, SecretsError
from machinen_runtime.unix_stream import UnixStream

SECRETS_PORT = 1975
CONNECT_TIMEOUT_MS = 10_000
CONNECT_RETRY_MS = 250
MAX_ANSWER_BYTES = 4096


class VsockSecrets:
    """Secrets for a guest, addressed by its `vsock.sock`."""

    @staticmethod
    async def send(
        vsock_path: str | os.PathLike[str],
        secrets: Mapping[str, str],
        *,
        timeout_ms: float = CONNECT_TIMEOUT_MS,
        retry_ms: float = CONNECT_RETRY_MS,
    ) -> int:
        """Replace the guest's secrets and return how many it took.

        The guest skips keys that are no shell identifiers. Values are never part of a message.

        Raises:
            SecretsError: SECRETS_VALUE_INVALID before anything is sent;
                SECRETS_AGENT_UNAVAILABLE, retryable unless the guest refused.
        """
        if not is_mapping(secrets):
            message = "secrets are a mapping of keys to values, both texts"
            raise SecretsError(ErrorCode.SECRETS_VALUE_INVALID, message)
        payload = b"".join(_line(key, value) for key, value in secrets.items())
        try:
            stream = await connect_channel(
                vsock_path, SECRETS_PORT, timeout_ms=timeout_ms, retry_ms=retry_ms
            )
        except ChannelUnavailableError as error:
            raise _unavailable(str(error), retryable=True) from error
        try:
            await stream.send(payload)
            await stream.send_eof()
            return _count(await _receive_all(stream))
        except anyio.BrokenResourceError as error:
            raise _unavailable("the link to the guest was lost", retryable=True) from error
        finally:
            stream.close()


def _line(key: str, value: str) -> bytes:
    for text in (key, value):
        if not is_text(text):
            message = f"keys and values of secrets are texts, not a {type(text).__name__}"
            raise SecretsError(ErrorCode.SECRETS_VALUE_INVALID, message)
        if any(forbidden in text for forbidden in "\r\n\0") or (text is key and "=" in text):
            raise SecretsError(
                ErrorCode.SECRETS_VALUE_INVALID,
                f"the secret {key!r} does not fit on a line KEY=VALUE; encode it, e.g. as base64",
            )
    try:
        return f"{key}={value}\n".encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        message = f"the secret {key!r} holds half a surrogate pair, which is no character"
        raise SecretsError(ErrorCode.SECRETS_VALUE_INVALID, message) from error


async def _receive_all(stream: UnixStream) -> bytes:
    answer = bytearray()
    try:
        while len(answer) <= MAX_ANSWER_BYTES:
            answer += await stream.receive(MAX_ANSWER_BYTES)
    except anyio.EndOfStream:
        pass
    return bytes(answer)


def _count(answer: bytes) -> int:
    verb, _, rest = answer.decode("utf-8", "replace").strip().partition(" ")
    if verb == "ok" and rest.isdecimal() and len(rest) < 10:
        return int(rest)
    if verb == "err":
        raise _unavailable(f"the guest refused the secrets: {rest!r:.200}", retryable=False)
    raise _unavailable("the guest did not confirm the secrets", retryable=True)


def _unavailable(message: str, *, retryable: bool) -> SecretsError:
    return SecretsError(ErrorCode.SECRETS_AGENT_UNAVAILABLE, message, retryable=retryable)
