/* TCP connections that a restored guest has and nobody else remembers. */
#ifndef MACHINEN_CONNECTIONS_H
#define MACHINEN_CONNECTIONS_H

/* Abort every established connection to another host: its programs see ECONNRESET now, not in an hour. Listening sockets
 * and what stays on the loopback go on. Also forget the gateway's hardware address. */
void connections_reset(void);

#endif
