/* spin-socket-floor: what a router could not do without: a read and a write for every token.
 *
 *   parent: N sockets --200 bytes each, in turn--> child: epoll, read
 *
 * Prints the processor time of one write and of one read over loopback TCP, user and system, of a
 * parent that does nothing but write and a child that does nothing but read. Nothing is paced and
 * nobody sleeps, so this is the least it can be: the floor under bench/run router-overhead. */
#include "base/base.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCKETS 400
#define EVENT_BYTES 200 /* an event with one token */
#define ROUNDS 1000     /* of one write to each: a second or two */
#define EVENTS_MAX 64

static double cpu_us(int who)
{
    struct rusage usage;
    (void)getrusage(who, &usage);
    return 1e6 * (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static int listen_somewhere(struct sockaddr_in *address)
{
    socklen_t bytes = sizeof *address;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (listener < 0 || bind(listener, (struct sockaddr *)address, sizeof *address) != 0 ||
        listen(listener, SOCKETS) != 0 ||
        getsockname(listener, (struct sockaddr *)address, &bytes) != 0) {
        err(1, "listen");
    }
    return listener;
}

/* The child: connects, reads until every writer has closed, prints its own time. */
static void read_all(const struct sockaddr_in *address)
{
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < SOCKETS; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        event.data.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (event.data.fd < 0 ||
            connect(event.data.fd, (const struct sockaddr *)address, sizeof *address) != 0 ||
            epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event) != 0) {
            err(1, "connect");
        }
    }
    const double before_us = cpu_us(RUSAGE_SELF);
    uint64_t reads = 0;
    for (int open = SOCKETS; open > 0;) {
        struct epoll_event events[EVENTS_MAX];
        const int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            char bytes[EVENT_BYTES]; /* one event at a time, as if they came one at a time */
            if (recv(events[i].data.fd, bytes, sizeof bytes, 0) <= 0) {
                (void)close(events[i].data.fd);
                open--;
            }
            reads++;
        }
    }
    (void)printf("read_us=%.2f\n", (cpu_us(RUSAGE_SELF) - before_us) / (double)reads);
    (void)fflush(stdout);
}

static void write_all(int listener)
{
    static int sockets[SOCKETS];
    const char event[EVENT_BYTES] = "data: ";
    const int yes = 1;
    for (int i = 0; i < SOCKETS; i++) {
        sockets[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (sockets[i] < 0) {
            err(1, "accept");
        }
        (void)setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    }
    const double before_us = cpu_us(RUSAGE_SELF);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SOCKETS; i++) {
            if (send(sockets[i], event, sizeof event, MSG_NOSIGNAL) != (ssize_t)sizeof event) {
                err(1, "send");
            }
        }
    }
    (void)printf("write_us=%.2f\n", (cpu_us(RUSAGE_SELF) - before_us) / ((double)ROUNDS * SOCKETS));
    for (int i = 0; i < SOCKETS; i++) {
        (void)close(sockets[i]);
    }
}

int main(void)
{
    struct sockaddr_in address;
    const int listener = listen_somewhere(&address);
    const pid_t child = fork();
    if (child < 0) {
        err(1, "fork");
    }
    if (child == 0) {
        read_all(&address);
        return 0;
    }
    write_all(listener);
    int status = 0;
    (void)waitpid(child, &status, 0);
    return status == 0 ? 0 : 1;
}
