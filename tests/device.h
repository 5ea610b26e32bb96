/* device.h - what tests need to look at values of a device: on a GPU the host cannot read what a pointer of the model names. */
#ifndef MR_TEST_DEVICE_H
#define MR_TEST_DEVICE_H

#include "base/memory.h"
#include "kernels.h"

/* A copy of n values, n >= 1, in host memory; freed with mr_free. Waits for the device. */
static inline float *device_copy(mr_backend *b, const float *src, int64_t n) {
    float *host = mr_alloc((size_t)n * sizeof(float));
    b->download(b, host, src, (size_t)n * sizeof(float));
    return host;
}

static inline float device_value(mr_backend *b, const float *src) {
    float x = 0;
    b->download(b, &x, src, sizeof x);
    return x;
}

static inline void device_put(mr_backend *b, float *dst, const float *host, int64_t n) {
    b->upload(b, dst, host, (size_t)n * sizeof(float));
}

#endif
