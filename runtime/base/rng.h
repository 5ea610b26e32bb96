/* rng.h - random numbers that are functions of what they are for, and the two generators of other libraries whose
 * orders medrl reproduces.
 *
 * Source:  Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10 (Random123 constants);
 *          numpy's default_rng = PCG64 seeded by SeedSequence, and torch.randperm = MT19937 (spec/datasets.md, 8.4).
 * Everything that samples in training uses mr_philox with the key (seed) and the counter (position, sample, prompt,
 * step): nothing is stored in a checkpoint, and no result depends on batch, order or thread.
 * Threads: no hidden state. */
#ifndef MR_RNG_H
#define MR_RNG_H

#include "base/status.h"

/* Four 32-bit words from a 128-bit counter and a 64-bit key. */
void mr_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key);

/* Uniform in [0, 1) with 24 bits, from word 0 of mr_philox: the number that picks token `position` of completion
 * `sample` of prompt `prompt` in step `step`. */
float mr_uniform(uint64_t seed, uint32_t step, uint32_t prompt, uint32_t sample, uint32_t position);

/* A named stream of numbers for initialization: element i of stream `stream` (an FNV-1a hash of a name, say). */
float mr_uniform_at(uint64_t seed, uint64_t stream, uint64_t i); /* [0, 1) */
void mr_uniforms_at(float *dst, int64_t n, uint64_t seed, uint64_t stream, uint64_t first); /* dst[i] = mr_uniform_at(.., first + i), faster */
float mr_normal_at(uint64_t seed, uint64_t stream, uint64_t i);  /* mean 0, deviation 1 (Box-Muller) */
uint64_t mr_hash64(const void *bytes, size_t len);               /* FNV-1a, for stream names and hash tables */

/* numpy.random.default_rng(seed). */
typedef struct mr_pcg64 {
    uint64_t state_hi, state_lo, inc_hi, inc_lo;
    uint32_t half;
    bool has_half;
} mr_pcg64;
void mr_pcg64_init(mr_pcg64 *r, uint64_t seed);
uint64_t mr_pcg64_next64(mr_pcg64 *r);
uint32_t mr_pcg64_next32(mr_pcg64 *r);
double mr_pcg64_double(mr_pcg64 *r);                             /* [0, 1) with 53 bits */
void mr_pcg64_permutation(mr_pcg64 *r, int64_t *out, int64_t n); /* Generator.permutation(n) */

/* torch.Generator().manual_seed(seed) and torch.randperm(n): calls after each other continue the generator, as epochs
 * do. */
typedef struct mr_mt19937 {
    uint32_t state[624];
    int index;
} mr_mt19937;
void mr_mt19937_init(mr_mt19937 *r, uint32_t seed);
uint32_t mr_mt19937_next32(mr_mt19937 *r);
void mr_mt19937_randperm(mr_mt19937 *r, int64_t *out, int64_t n);

#endif
