/* What mux.c (the connection) and streams.c (the streams on it) share; nobody else includes this. */
#ifndef MACHINEN_MUX_INTERNAL_H
#define MACHINEN_MUX_INTERNAL_H

#include "mux.h"

/* Queue a frame ahead of all DATA. Only while connected. */
void mux_queue_control(uint8_t type, uint32_t stream, const void *payload, size_t size);
/* Write one frame, if nothing else waits for the port. Returns false if it was not taken, true if it is on its way. */
bool mux_write_now(const uint8_t *frame, size_t size);
/* Whether nothing waits for the port and there is room: what is sent now comes at once. */
bool mux_is_idle(void);
/* Send what splice_load() has queued, as far as the port takes it. */
void mux_send_spliced(void);

void streams_init(const struct service *(*find_service)(uint32_t port));
/* Handle a frame on a stream other than 0. Returns 0 or -EPROTO. */
int streams_frame(const struct frame_header *header, const uint8_t *payload);
/* The connection is gone: every stream closes, nothing is sent. */
void streams_drop_all(void);
/* Encode the next DATA or EOF frame into `room` bytes, taking turns. Returns its size with header, 0: nothing may be sent,
 * or it does not fit. */
size_t streams_next_frame(uint8_t *out, size_t room);
/* After sending: call `writable` where there is room again, free what is gone. */
void streams_settle(void);
bool streams_have_output(void);
/* Bytes of this stream are lost: it ends. */
void streams_lost(uint32_t id);

#endif
