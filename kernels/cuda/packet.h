/* packet.h - a list in host memory that goes to the device as one piece (cu_small). */
#ifndef MR_CUDA_PACKET_H
#define MR_CUDA_PACKET_H

#include <stdlib.h>
#include <string.h>

typedef struct packet {
    char *data;
    size_t len, cap;
} packet;

/* False when the host has no memory left; then free(p->data) as after use. */
static inline bool packet_add(packet *p, const void *data, size_t bytes) {
    if (p->len + bytes > p->cap) {
        size_t cap = (p->len + bytes) * 2 + 1024;
        char *grown = (char *)realloc(p->data, cap);
        if (!grown) return false;
        p->data = grown, p->cap = cap;
    }
    memcpy(p->data + p->len, data, bytes);
    p->len += bytes;
    return true;
}

#endif
