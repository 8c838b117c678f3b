/* Replaces the system's randomness by a generator that is seeded with SIM_SEED,
 * so that a simulation repeats itself exactly: chitchat draws its peers, and the
 * standard library the order of its hash maps, from getrandom(2).
 *
 *   cc -shared -fPIC -o libseed.so seed.c && SIM_SEED=7 LD_PRELOAD=./libseed.so ...
 *
 * For simulations only: nothing that is drawn from this is a secret.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

/* splitmix64; simulations run on one thread each. */
static _Thread_local uint64_t state;
static _Thread_local int seeded;

ssize_t getrandom(void *buf, size_t len, unsigned int flags) {
    (void)flags;
    if (!seeded) {
        const char *text = getenv("SIM_SEED");
        state = text ? strtoull(text, NULL, 10) : 0;
        seeded = 1;
    }
    unsigned char *bytes = buf;
    for (size_t i = 0; i < len; i++) {
        static _Thread_local uint64_t word;
        if (i % 8 == 0) {
            uint64_t z = (state += 0x9e3779b97f4a7c15u);
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            word = z ^ (z >> 31);
        }
        bytes[i] = (unsigned char)(word >> (8 * (i % 8)));
    }
    return (ssize_t)len;
}

int getentropy(void *buf, size_t len) {
    getrandom(buf, len, 0);
    return 0;
}
