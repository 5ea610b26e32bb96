/* room.h - what a decoder was opened with, for those who only hold the decoder: rollouts cut their work to it. */
#ifndef MR_ROOM_H
#define MR_ROOM_H

#include "model/decoder.h"

mr_model *mr_decoder_model(const mr_decoder *d);
const mr_decoder_opts *mr_decoder_options(const mr_decoder *d); /* as given, slots rounded up; borrowed until close */

#endif
