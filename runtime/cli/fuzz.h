/* fuzz.h - `medrl test --fuzz`: what a reward gives to completions that try to earn it without an answer. */
#ifndef MR_FUZZ_H
#define MR_FUZZ_H

#include "base/status.h"

/* Scores the stored exploit completions (lua/medrl/exploits.lua) with each reward (mr_pool_opts.rewards) and prints
 * what earns more than an honest wrong answer. n = 0: every reward of the installation. MR_EINVAL when one does that
 * the reward's file does not allow by name, faults, or is slow. */
mr_status mr_fuzz(const char *const *rewards, int n, bool json, mr_err *err);

#endif
