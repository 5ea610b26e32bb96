/* signals.c - the first Ctrl-C asks, the second one ends (mr_signals_patience: a later one). SIGUSR1 and SIGXCPU are what a machine that is
 * about to be taken away sends: they ask like the others, and the exit code says "try again" (design.md, section 8). */
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"

static volatile sig_atomic_t seen, at_once, count, patience = 1;
static void (*volatile stop_fn)(void *self);
static void *volatile stop_self;
static struct termios terminal;
static volatile sig_atomic_t has_terminal;

const char *mr_signals_name(int number) {
    static const struct { int number; const char *name; } names[] = {
        { SIGINT, "SIGINT" }, { SIGTERM, "SIGTERM" }, { SIGHUP, "SIGHUP" }, { SIGUSR1, "SIGUSR1" }, { SIGXCPU, "SIGXCPU" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number) return names[i].name;
    return "a signal";
}

int mr_signals_exit_code(int number) {
    return number == SIGUSR1 || number == SIGXCPU ? 75 : 128 + number;
}

/* Everything here is async-signal-safe (POSIX.1-2017, 2.4.3). */
static void handler(int number) {
    if (at_once || ++count > patience) {
        const char *parts[] = { "\nmedrl: stopped at once by ", mr_signals_name(number), "\n" };
        if (has_terminal) tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
        for (size_t i = 0; i < 3; i++)
            if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0) break;
        _exit(mr_signals_exit_code(number));
    }
    seen = number;
    if (stop_fn) stop_fn(stop_self);
}

static void install(void) {
    static bool done;
    if (done) return;
    done = true;
    has_terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &terminal) == 0;
    struct sigaction action = { .sa_handler = handler }; /* no SA_RESTART: a wait for input ends */
    sigemptyset(&action.sa_mask);
    const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        /* under nohup SIGHUP is ignored, and stays so */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(numbers[i], &action, NULL);
    }
}

void mr_signals_catch(void (*stop)(void *self), void *self) {
    stop_fn = NULL;
    stop_self = self;
    stop_fn = stop;
    at_once = 0;
    install();
    if (seen && stop) stop(self); /* it came before there was anybody to tell */
}

void mr_signals_leave(void) {
    stop_fn = NULL;
    at_once = 1;
    install();
}

int mr_signals_seen(void) {
    return seen;
}

void mr_signals_forget(void) {
    seen = count = 0;
}

void mr_signals_patience(int n) {
    patience = n;
}
