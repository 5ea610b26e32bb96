/* room.c - see room.h. */
#include "model/room.h"

#include "model/layout.h"

mr_model *mr_decoder_model(const mr_decoder *d) {
    return d->m;
}

const mr_decoder_opts *mr_decoder_options(const mr_decoder *d) {
    return &d->opts;
}
