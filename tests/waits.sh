#!/bin/sh
# waits.sh - every call of the program that may wait says in a comment `wait: ...`, on its line or on the one above it, what bounds the
# wait: a time, or who ends it. Kernels' are named once (kernels/cuda/backend.c). Source: reliability.md P14.
cd "$(dirname "$0")/.." || exit 1
calls='p?poll|epoll_wait|waitpid|waitid|wait4|pthread_cond_wait|pthread_cond_timedwait|pthread_join|sem_wait|sem_timedwait|sigwait|pause|sleep|usleep|nanosleep|clock_nanosleep|accept4?|connect|recv|recvfrom|FUTEX_WAIT_PRIVATE|curl_multi_poll|curl_multi_wait|curl_easy_perform|popen|read\(STDIN_FILENO'
found=$(find runtime kernels/cpu kernels/open.c -name '*.c' -print | sort | xargs awk -v calls="(^|[^A-Za-z0-9_.>\"])($calls)[(,]" '
    FNR == 1 { before = "" }
    { text = $0; sub(/\/\*.*/, "", text) }
    text ~ calls && text !~ /^[ \t]*\*/ && $0 !~ /wait: / && before !~ /wait: / { print FILENAME ":" FNR ": " $0 }
    { if ($0 !~ /^[ \t]*$/) before = $0 }')
if [ -n "$found" ]; then
    printf '%s\n' "$found" "waits.sh: what bounds these waits? say it in a comment /* wait: ... */ on the line above"
    exit 1
fi
echo "waits: every wait has a bound or a name"
