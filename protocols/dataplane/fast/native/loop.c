/* Threads, sources and control. */
#define _GNU_SOURCE

#include "worker.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define WAKE UINT64_MAX

void source_failed(fast_loop *loop, struct source *source, int error) {
    enum state live = LIVE;

    if (!__atomic_compare_exchange_n(&source->state, &live, FAILED, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    __atomic_store_n(&source->error, error, __ATOMIC_RELEASE);
    epoll_ctl(loop->workers[source->worker]->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
    eventfd_write(loop->events, 1);
}

static void serve(struct worker *worker, uint64_t key, bool urgent) {
    struct source *source = &worker->loop->sources[key & UINT32_MAX];

    if (source->generation != key >> 32 || source->urgent != urgent || !is_live(source))
        return; /* removed meanwhile */
    if (source->kind == LOOP_QUEUE)
        read_queue(worker, source);
    else
        read_socket(worker, source);
}

static void *run(void *context) {
    struct worker *worker = context;
    fast_loop *loop = worker->loop;
    struct epoll_event ready[BATCH];

    while (!__atomic_load_n(&loop->stopping, __ATOMIC_ACQUIRE)) {
        int found = epoll_wait(worker->epoll, ready, BATCH, -1);

        if (found <= 0)
            continue;
        worker->passed = worker->long_passed = 0;
        pthread_rwlock_rdlock(&loop->lock);
        for (int urgent = 1; urgent >= 0; urgent--)
            for (int i = 0; i < found; i++)
                if (ready[i].data.u64 != WAKE)
                    serve(worker, ready[i].data.u64, urgent);
        pthread_rwlock_unlock(&loop->lock);
        tally(worker, LOOP_TURNS, 1);
    }
    return NULL;
}

/* ---- control ---- */

static void free_worker(struct worker *worker) {
    if (worker == NULL)
        return;
    if (worker->epoll >= 0)
        close(worker->epoll);
    if (worker->core != NULL)
        fast_worker_free(worker->core);
    for (unsigned i = 0; i < FAST_DEVICES; i++)
        free(worker->outlets[i]);
    free(worker->inner);
    free(worker->sealed);
    free(worker->arrived);
    free(worker);
}

static struct worker *new_worker(fast_loop *loop, unsigned number) {
    struct worker *worker = calloc(1, sizeof *worker);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE};

    if (worker == NULL)
        return NULL;
    worker->loop = loop;
    worker->number = number;
    worker->core = fast_worker_new(loop->core);
    worker->inner = malloc((size_t)FAST_EXPECTED * INNER_SLOT); /* as arrived: touched as far as packets are long */
    worker->sealed = malloc(SEALED_OCTETS);
    worker->arrived = malloc((size_t)BATCH * PACKET_MAXIMUM); /* touched only as far as messages are long */
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->core == NULL || worker->inner == NULL || worker->sealed == NULL || worker->arrived == NULL ||
        worker->epoll < 0 || epoll_ctl(worker->epoll, EPOLL_CTL_ADD, loop->wake, &wake) < 0) {
        int error = errno;

        free_worker(worker);
        errno = error;
        return NULL;
    }
    for (unsigned i = 0; i < BATCH; i++) {
        struct msghdr *message = &worker->receiving[i].msg_hdr;

        worker->receive_parts[i] = (struct iovec){worker->arrived + (size_t)i * PACKET_MAXIMUM, PACKET_MAXIMUM};
        message->msg_name = &worker->receive_addresses[i];
        message->msg_iov = &worker->receive_parts[i];
        message->msg_iovlen = 1;
        message->msg_control = worker->receive_controls[i].octets;
    }
    return worker;
}

fast_loop *fast_loop_new(fast_core *core, unsigned workers, int channel, int long_channel) {
    fast_loop *loop = calloc(1, sizeof *loop);
    pthread_rwlockattr_t kind;

    if (loop == NULL) {
        close(channel);
        close(long_channel);
        errno = ENOMEM;
        return NULL;
    }
    loop->core = core;
    loop->channel = channel;
    loop->long_channel = long_channel;
    loop->events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&loop->control, NULL);
    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&loop->lock, &kind);
    pthread_rwlockattr_destroy(&kind);
    while (loop->events >= 0 && loop->wake >= 0 && loop->count < workers) {
        struct worker *worker = new_worker(loop, loop->count);

        if (worker == NULL)
            break;
        loop->workers[loop->count++] = worker;
    }
    if (loop->count < workers || workers == 0) {
        int error = errno;

        fast_loop_free(loop);
        errno = error;
        return NULL;
    }
    return loop;
}

void fast_loop_free(fast_loop *loop) {
    fast_loop_stop(loop);
    for (unsigned i = 0; i < loop->count; i++)
        free_worker(loop->workers[i]);
    for (unsigned i = 0; i < LOOP_SOURCES; i++)
        if (loop->sources[i].state != FREE)
            close(loop->sources[i].descriptor);
    if (loop->events >= 0)
        close(loop->events);
    if (loop->wake >= 0)
        close(loop->wake);
    close(loop->channel);
    close(loop->long_channel);
    pthread_rwlock_destroy(&loop->lock);
    pthread_mutex_destroy(&loop->control);
    free(loop);
}

static void join(fast_loop *loop) {
    eventfd_t ignored;

    __atomic_store_n(&loop->stopping, true, __ATOMIC_RELEASE);
    eventfd_write(loop->wake, 1);
    for (unsigned i = 0; i < loop->count; i++)
        if (loop->workers[i]->running) {
            pthread_join(loop->workers[i]->thread, NULL);
            loop->workers[i]->running = false;
        }
    eventfd_read(loop->wake, &ignored);
    __atomic_store_n(&loop->stopping, false, __ATOMIC_RELEASE);
}

int fast_loop_start(fast_loop *loop) {
    sigset_t all, before;
    int error = 0;

    pthread_mutex_lock(&loop->control);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    for (unsigned i = 0; i < loop->count && error == 0; i++) {
        struct worker *worker = loop->workers[i];
        char name[16];

        if (worker->running)
            continue;
        error = pthread_create(&worker->thread, NULL, run, worker);
        worker->running = error == 0;
        if (worker->running) {
            snprintf(name, sizeof name, "esp-%u", i);
            pthread_setname_np(worker->thread, name);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        join(loop);
    pthread_mutex_unlock(&loop->control);
    return -error;
}

void fast_loop_stop(fast_loop *loop) {
    pthread_mutex_lock(&loop->control);
    join(loop);
    pthread_mutex_unlock(&loop->control);
}

/* Under the write lock: where packets of a device go, which stays when the device goes. NULL: no memory. */
static struct outlet *outlet_of(struct worker *worker, unsigned device) {
    struct outlet *outlet = worker->outlets[device];

    if (outlet == NULL && (outlet = calloc(1, sizeof *outlet)) != NULL) {
        outlet->worker = worker;
        outlet->coalescer.write = write_inner;
        outlet->coalescer.context = outlet;
        __atomic_store_n(&worker->outlets[device], outlet, __ATOMIC_RELEASE);
    }
    return outlet;
}

static int add(fast_loop *loop, int descriptor, const struct source *wanted) {
    struct epoll_event event = {.events = EPOLLIN};
    struct outlet *outlet = NULL;
    struct source *source;
    unsigned at;
    int own, error = 0;

    if (wanted->worker >= loop->count)
        return -EINVAL;
    own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return -errno;
    pthread_rwlock_wrlock(&loop->lock);
    for (at = 0; at < LOOP_SOURCES && loop->sources[at].state != FREE; at++)
        ;
    source = &loop->sources[at];
    if (at == LOOP_SOURCES)
        error = ENOSPC;
    else if (wanted->kind == LOOP_QUEUE && (outlet = outlet_of(loop->workers[wanted->worker], wanted->device)) == NULL)
        error = ENOMEM;
    else if (outlet != NULL && outlet->queue != NULL)
        error = EBUSY;
    if (error == 0) {
        uint32_t generation = source->generation + 1;

        *source = *wanted;
        source->generation = generation;
        source->descriptor = own;
        event.data.u64 = (uint64_t)generation << 32 | at;
        error = epoll_ctl(loop->workers[wanted->worker]->epoll, EPOLL_CTL_ADD, own, &event) < 0 ? errno : 0;
        if (error == 0) {
            source->state = LIVE;
            if (at >= loop->high)
                loop->high = at + 1;
            if (outlet != NULL) {
                outlet->queue = source;
                outlet->coalescer.udp = wanted->udp;
            }
        }
    }
    pthread_rwlock_unlock(&loop->lock);
    if (error != 0) {
        close(own);
        return -error;
    }
    return (int)at;
}

int fast_loop_add_socket(fast_loop *loop, int descriptor, unsigned worker, enum loop_kind kind,
                         const fast_endpoint *local, bool urgent) {
    struct source source = {.kind = kind, .worker = worker, .urgent = urgent, .local = *local};
    int on = 1, done;

    if (local->version == 4)
        done = setsockopt(descriptor, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
    else
        done = setsockopt(descriptor, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on);
    if (done < 0)
        return -errno;
    if (kind == LOOP_UDP)
        setsockopt(descriptor, SOL_UDP, UDP_GRO, &on, sizeof on); /* kernels before 5.0 do without */
    return add(loop, descriptor, &source);
}

int fast_loop_add_queue(fast_loop *loop, int descriptor, unsigned worker, unsigned device, bool udp_offload) {
    struct source source = {.kind = LOOP_QUEUE, .worker = worker, .device = device, .udp = udp_offload};

    if (device >= FAST_DEVICES)
        return -EINVAL;
    return add(loop, descriptor, &source);
}

int fast_loop_remove(fast_loop *loop, int number) {
    struct source *source;
    bool found = false;

    if (number < 0 || number >= LOOP_SOURCES)
        return -ENOENT;
    source = &loop->sources[number];
    pthread_rwlock_wrlock(&loop->lock);
    if (source->state != FREE) {
        struct worker *worker = loop->workers[source->worker];

        if (source->state == LIVE)
            epoll_ctl(worker->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
        if (source->kind == LOOP_QUEUE)
            worker->outlets[source->device]->queue = NULL;
        close(source->descriptor);
        source->state = FREE;
        found = true;
    }
    pthread_rwlock_unlock(&loop->lock);
    return found ? 0 : -ENOENT;
}

static void gather(uint64_t *sums, const uint64_t *counters, unsigned length) {
    for (unsigned i = 0; i < length; i++)
        sums[i] += __atomic_load_n(&counters[i], __ATOMIC_RELAXED);
}

void fast_loop_read(fast_loop *loop, struct loop_totals *totals) {
    memset(totals, 0, sizeof *totals);
    for (unsigned i = 0; i < loop->count; i++) {
        const struct loop_totals *one = &loop->workers[i]->totals;

        gather(totals->counters, one->counters, LOOP_COUNTERS);
        gather(totals->sealing, one->sealing, FAST_REASONS);
        gather(totals->opening, one->opening, FAST_REASONS);
    }
}

void fast_loop_read_device(fast_loop *loop, unsigned device, struct loop_device_totals *totals) {
    memset(totals, 0, sizeof *totals);
    for (unsigned i = 0; i < loop->count; i++) {
        const struct outlet *outlet = __atomic_load_n(&loop->workers[i]->outlets[device], __ATOMIC_ACQUIRE);

        if (outlet != NULL) {
            gather(&totals->read, &outlet->totals.read, 1);
            gather(&totals->written, &outlet->totals.written, 1);
            gather(&totals->refused, &outlet->totals.refused, 1);
        }
    }
}

bool fast_loop_failure(fast_loop *loop, int *number, int *error) {
    bool found = false;

    pthread_rwlock_wrlock(&loop->lock);
    for (int i = 0; i < LOOP_SOURCES && !found; i++)
        if (loop->sources[i].state == FAILED) {
            loop->sources[i].state = TOLD;
            *number = i;
            *error = loop->sources[i].error;
            found = true;
        }
    pthread_rwlock_unlock(&loop->lock);
    return found;
}

int fast_loop_eventfd(const fast_loop *loop) {
    return loop->events;
}
