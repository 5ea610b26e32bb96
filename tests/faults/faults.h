/* faults.h - what the files of medrl_faulty share. */
#ifndef MR_TEST_FAULTS_H
#define MR_TEST_FAULTS_H

/* Of MEDRL_FAULT=number:STEP:WHERE/VALUE what is due in this step for this place: "nan", "inf" or "huge"; NULL: nothing. Each playing is
 * noted in MEDRL_FAULT_LOG. */
const char *mr_fault_number(long step, const char *where);

#endif
