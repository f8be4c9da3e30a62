/* What a system may do to a process, put before its libraries by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#ifdef LOCKS
/* A disk that keeps no locks: LOST_LOCKS=refused says so, anything else keeps nobody out. */
int flock(int file, int how) {
    (void)file;
    (void)how;
    const char *kind = getenv("LOST_LOCKS");
    if (kind && kind[0] == 'r') {
        errno = ENOLCK;
        return -1;
    }
    return 0;
}
#endif

#ifdef CLOCK
/* A clock that is CLOCK_BACK_S seconds behind from now on, once the file CLOCK_SET is there. */
#include <unistd.h>
static time_t behind(void) {
    const char *seconds = getenv("CLOCK_BACK_S"), *set = getenv("CLOCK_SET");
    return seconds && set && access(set, F_OK) == 0 ? atol(seconds) : 0;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec -= behind();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec fine;
    int failed = clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *to) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (to) *to = fine.tv_sec;
    return fine.tv_sec;
}
#endif
