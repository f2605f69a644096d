/* A wrong wall clock for one process: CLOCK_REALTIME as programs ask for it by clock_gettime, moved by SKEW_SECONDS.

   Owns that one question. Other clocks, and the C library's own look at the time, stay right: what waits until a moment
   computes and compares it with the same clock. (Debian's libfaketime moves some of these and not others, and then waits
   of librdkafka end at once or never.) */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
  int failed = (int)syscall(SYS_clock_gettime, clock, at);
  if (!failed && clock == CLOCK_REALTIME) {
    const char *skew = getenv("SKEW_SECONDS");
    if (skew) at->tv_sec += atol(skew);
  }
  return failed;
}
