/* A lock held for one packet. */
#ifndef FAST_LOCK_H
#define FAST_LOCK_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

struct spinlock {
    atomic_bool taken;
};

static inline void spin_lock(struct spinlock *lock) {
    while (atomic_exchange_explicit(&lock->taken, true, memory_order_acquire))
        for (int turns = 0; atomic_load_explicit(&lock->taken, memory_order_relaxed); turns++)
            if (turns > 1000)
                sched_yield(); /* its holder waits for this core, perhaps */
}

static inline void spin_unlock(struct spinlock *lock) {
    atomic_store_explicit(&lock->taken, false, memory_order_release);
}

#endif
