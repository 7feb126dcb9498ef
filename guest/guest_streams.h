/*
 * Streams that programs in the guest open to the host; docs/protocol.md, chapter 2.
 *
 * /run/machinen/vsock is a Unix socket: `CONNECT <port>\n` in, `OK <stream>\n` out, then it is the stream.
 * The web proxy is a TCP port on the guest's loopback, each connection a stream to the host's proxy.
 */
#ifndef MACHINEN_GUEST_STREAMS_H
#define MACHINEN_GUEST_STREAMS_H

#include <stdbool.h>

enum { PROXY_TCP_PORT = 3128 };

/* Listen on /run/machinen/vsock; a failure is logged, the agent goes on without. */
void guest_streams_start(void);
/* Listen on the proxy's port, or no longer; processes started from here on find it in their environment. */
void guest_streams_set_proxy(bool on);

#endif
