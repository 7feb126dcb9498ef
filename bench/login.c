/*
 * In the place of the agent: what asks for a name on the serial line of a guest that nobody watches over. The peer of
 * a warm boot waits for its prompt (bench/plain_login.py). Static: the initramfs it comes in has no libraries.
 */
#include <unistd.h>

int main(void)
{
    static char *const arguments[] = {"agetty", "--noclear", "--local-line", "ttyS0", "vt100", NULL};
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    execve("/usr/sbin/agetty", arguments, environment);
    return 127;
}
