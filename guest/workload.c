/* See workload.h. */
#include "workload.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "io.h"
#include "loop.h"
#include "mux.h"
#include "session.h"
#include "tools.h"

enum {
    DRAIN_MS = 250,  /* for the last output to reach the workload's clients */
    FLUSH_MS = 500,  /* for the host to confirm WORKLOAD_EXIT */
    QUIET_MS = 5000, /* a snapshot is being taken: wait for its end, but not for ever */
    DRAIN_CHECK_MS = 10,
};

enum phase { PHASE_NONE, PHASE_RUNNING, PHASE_DRAINING, PHASE_QUIET, PHASE_FLUSHING };

static struct {
    enum phase phase;
    uint8_t exit_code;
    uint8_t exit_signal;
    uint64_t drain_until_ms;
    timer_id timer;
} workload;

bool workload_has_started(void)
{
    return workload.phase != PHASE_NONE;
}

void workload_started(struct session *session)
{
    char text[16];
    workload.phase = PHASE_RUNNING;
    snprintf(text, sizeof text, "%d\n", session->process.pid);
    write_text_file(agent_path(WORKLOAD_PID_FILE), text, 0644); /* a convenience: nothing depends on it here */
}

static void stop_agent(void *context)
{
    (void)context;
    loop_stop(0);
}

static void announce_exit(void)
{
    if (!mux_is_connected()) {
        loop_stop(0);
        return;
    }
    workload.phase = PHASE_FLUSHING;
    mux_send_workload_exit(workload.exit_code, workload.exit_signal);
    mux_send_ping();
    loop_cancel(&workload.timer);
    workload.timer = loop_after_ms(FLUSH_MS, stop_agent, NULL);
}

static void drain(void *context)
{
    (void)context;
    workload.timer = 0;
    if (mux_is_quiet()) {
        workload.phase = PHASE_QUIET;
        workload.timer = loop_after_ms(QUIET_MS, stop_agent, NULL);
    } else if (mux_has_output() && monotonic_ms() < workload.drain_until_ms) {
        workload.timer = loop_after_ms(DRAIN_CHECK_MS, drain, NULL);
    } else {
        announce_exit();
    }
}

void workload_ended(int exit_code, int exit_signal)
{
    workload.phase = PHASE_DRAINING;
    workload.exit_code = (uint8_t)exit_code;
    workload.exit_signal = (uint8_t)exit_signal;
    workload.drain_until_ms = monotonic_ms() + DRAIN_MS;
    loop_cancel(&workload.timer);
    workload.timer = loop_after_ms(0, drain, NULL);
}

void workload_pong(void)
{
    if (workload.phase == PHASE_FLUSHING)
        loop_stop(0);
}

void workload_continue(void)
{
    /* A new connection has dropped what was sent on the old one. */
    if (workload.phase == PHASE_QUIET || workload.phase == PHASE_FLUSHING)
        workload_ended(workload.exit_code, workload.exit_signal);
}

/* An interactive shell ignores TERM and ends by HUP; sending HUP to others would spoil their clean end. */
bool ignores_term(pid_t pid)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    if (read_text_file(path, text, sizeof text) <= 0)
        return false;
    const char *line = strstr(text, "\nSigIgn:");
    uint64_t ignored = line == NULL ? 0 : strtoull(line + strlen("\nSigIgn:"), NULL, 16);
    return (ignored >> (SIGTERM - 1) & 1) != 0;
}

void workload_poweroff(uint32_t grace_ms)
{
    struct session *session = session_find("main");
    if (workload.phase != PHASE_RUNNING || session == NULL || !session->workload) {
        if (workload.phase <= PHASE_RUNNING)
            loop_stop(0);
        return;
    }
    session_end(session, ignores_term(session->process.pid) ? SIGHUP : SIGTERM, grace_ms);
}
