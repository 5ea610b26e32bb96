/* report.c - `medrl report`: a run as one HTML file, or served to this machine while it goes on. */
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "record/report.h"

static bool should_stop(void *self) {
    (void)self;
    return mr_signals_seen() != 0;
}

static void ready(void *self, const char *url) {
    (void)self;
    printf("%s\n", url);
    fflush(stdout);
    mr_info("serves this machine only; Ctrl-C ends it");
}

/* Ctrl-C is how it ends: nothing is lost by it. */
static mr_status serve(const char *run, int port, mr_err *err) {
    const mr_report_server server = { .port = port, .ready = ready, .stop = should_stop };
    mr_signals_catch(NULL, NULL);
    return mr_report_serve(run, &server, err);
}

static mr_status write_page(const char *run, const char *output, bool json, mr_err *err) {
    char *beside = mr_path_join(run, "report.html");
    const char *path = output ? output : beside;
    mr_str page = { 0 };
    const double t0 = mr_now_s();
    mr_status st = mr_report_page(&page, run, NULL, err);
    if (st == MR_OK && strcmp(path, "-") == 0)
        fwrite(page.data, 1, page.len, stdout);
    else if (st == MR_OK)
        st = mr_file_write(path, page.data, page.len, err);
    if (st == MR_OK && json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "report", path);
        cJSON_AddNumberToObject(o, "bytes", (double)page.len);
        cJSON_AddNumberToObject(o, "seconds", mr_now_s() - t0);
        mr_print_json(o);
        cJSON_Delete(o);
    } else if (st == MR_OK && strcmp(path, "-") != 0) {
        printf("%s\n", path);
        mr_info("%.2f MB in %.2f s; open it in a browser, or mail it: it needs nothing else", (double)page.len / 1e6,
                mr_now_s() - t0);
    }
    mr_str_clear(&page);
    mr_free(beside);
    return st;
}

mr_status mr_cmd_report(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "report",
        "medrl report outputs\nmedrl report --serve outputs",
        "RUN",
        1,
        1,
        "Writes a run as one HTML file: curves of rewards by name and by data set, lengths, KL, entropy, clipping, "
        "speed "
        "and cost, with reloads and faults marked; the evaluation, if there was one; and its samples with their "
        "rewards. "
        "Nothing is fetched when it is read.\n"
        "--serve shows the same on 127.0.0.1 and follows a run that goes on.",
    };
    const char *output = NULL;
    int64_t port = 8410;
    bool json = false, live = false;
    const mr_opt opts[] = {
        { "output", 'o', MR_OPT_TEXT, "FILE", "in place of RUN/report.html; - for stdout", &output, 0, 0 },
        { "serve", 0, MR_OPT_FLAG, NULL, "serve it to this machine until Ctrl-C", &live, 0, 0 },
        { "port", 0, MR_OPT_INT, "N", "of --serve (8410; 0: a free one)", &port, 0, 65535 },
        { "json", 0, MR_OPT_FLAG, NULL, "file, bytes and seconds as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help)
        st = live ? serve(a.items[0], (int)port, err) : write_page(a.items[0], output, json, err);
    mr_args_clear(&a);
    return st;
}
