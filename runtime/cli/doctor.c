/* doctor.c - `medrl doctor`: what medrl finds on this machine, one line each, with the fix in every line that fails. */
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "hub/hub.h"
#include "model/cache.h"
#include "script/script.h"

typedef struct checkup {
    cJSON *report;
    bool json;
    int n_failed;
} checkup;

/* fix: what to do when it is not ok, one line; NULL: nothing can be wrong. */
static void note(checkup *c, bool ok, const char *key, const char *fix, const char *fmt, ...) MR_PRINTF(5, 6);
static void note(checkup *c, bool ok, const char *key, const char *fix, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!ok) c->n_failed++;
    cJSON *o = cJSON_AddObjectToObject(c->report, key);
    cJSON_AddBoolToObject(o, "ok", ok);
    cJSON_AddStringToObject(o, "text", text);
    if (!ok && fix) cJSON_AddStringToObject(o, "fix", fix);
    if (!c->json) printf("%-4s %-8s %s\n", ok ? "ok" : "FAIL", key, text);
    if (!c->json && !ok && fix) printf("     %-8s -> %s\n", "", fix);
}

static void check_cpu(checkup *c) {
    mr_err err = { "" };
    mr_backend *b;
    double t = mr_now_s();
    if (mr_backend_open(&b, MR_CPU, 0, 0, &err) != MR_OK) {
        note(c, false, "cpu", "free some memory and call this again; a processor of x86-64 or AArch64 is all it needs",
             "%s", err.msg);
        return;
    }
    note(c, true, "cpu", NULL, "%s; %d of %ld cores; %s products; ready in %.0f ms", b->device, b->n_threads,
         sysconf(_SC_NPROCESSORS_ONLN), b->has_bf16 ? "bf16" : "f32", 1e3 * (mr_now_s() - t));
    mr_backend_close(b);
    if (mr_backend_open(&b, MR_CUDA, 0, 0, &err) == MR_OK) {
        note(c, true, "gpu", NULL, "%s", b->device);
        mr_backend_close(b);
    } else {
        note(c, !mr_parts_gpu_visible(), "gpu",
             "build the module with ./bootstrap cuda (needs nvcc), put libmedrl_cuda.so beside the program or "
             "name it in "
             "MEDRL_CUDA_MODULE; or use --device cpu",
             "none: %s", err.msg);
    }
}

static double available_bytes(void) {
    FILE *f = fopen("/proc/meminfo", "re");
    char line[256];
    double kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "MemAvailable:", 13) == 0) kib = strtod(line + 13, NULL);
    if (f) fclose(f);
    return 1024 * kib;
}

static void check_memory(checkup *c) {
    struct sysinfo s;
    double total = sysinfo(&s) == 0 ? (double)s.totalram * s.mem_unit : 0, free_bytes = available_bytes();
    bool ok = free_bytes > 1.5e9;
    note(c, ok, "memory", "close other programs: the default recipe takes 1.5 GB", "%.1f GB free of %.1f GB",
         free_bytes / 1e9, total / 1e9);
}

static void check_folders(checkup *c) {
    char *lua = mr_path_join(mr_home_dir(), "lua/medrl");
    if (mr_path_is_dir(lua))
        note(c, true, "home", NULL, "%s", mr_home_dir());
    else
        note(c, false, "home", "set MEDRL_HOME to the folder of the clone, or install it again", "%s has no lua/medrl",
             mr_home_dir());
    mr_free(lua);

    mr_err err = { "" };
    char *probe = mr_path_join(mr_cache_dir(), ".probe");
    struct statvfs v;
    bool ok = mr_mkdirs(mr_cache_dir(), &err) == MR_OK && mr_file_write(probe, "x", 1, &err) == MR_OK;
    if (ok) unlink(probe);
    if (ok && statvfs(mr_cache_dir(), &v) == 0)
        note(c, true, "cache", NULL, "%s, %.1f GB free", mr_cache_dir(), (double)v.f_bavail * (double)v.f_frsize / 1e9);
    else
        note(c, false, "cache", "set XDG_CACHE_HOME to a folder that you may write", "%s", err.msg);
    mr_free(probe);
    char *weights = mr_cache_describe();
    note(c, true, "weights", NULL, "quantized ones are kept %s", weights);
    mr_free(weights);
}

static void check_model(checkup *c) {
    mr_err err = { "" };
    char *path;
    if (mr_model_resolve(&path, "smollm2-135m-instruct", &err) == MR_OK)
        note(c, true, "model", NULL, "%s", path);
    else
        note(c, false, "model",
             "`./bootstrap fetch` in the clone gets it once (94 MB); any model folder of yours does as well", "%s",
             err.msg);
    mr_free(path);
}

/* Where names come from. A token is only said to be there, and where: nothing of it is shown. */
static void check_hub(checkup *c) {
    mr_err err = { "" };
    mr_hub_setup s;
    const char *library;
    if (mr_hub_setup_read(&s, &err) != MR_OK) {
        note(c, false, "hub", "correct the variable that is named", "%s", err.msg);
        return;
    }
    note(c, true, "hub", "", "%s%s, cache %s%s", s.endpoint, s.offline ? " (off: HF_HUB_OFFLINE)" : "", s.root,
         mr_path_is_dir(s.root) ? "" : " (not made yet)");
    note(c, true, "token", "", "%s%s", s.token_from ? "yes, from " : "none; private and gated names want HF_TOKEN",
         s.token_from ? s.token_from : "");
    if (mr_hub_library(&library, &err) == MR_OK)
        note(c, true, "download", "", "%.*s", (int)strcspn(library, " "), library);
    else
        note(c, false, "download", "install libcurl 4 (Debian: apt install libcurl4)", "%s", err.msg);
    mr_hub_setup_clear(&s);
}

/* A file with one case, in a worker: spawn, sandbox, Lua, an answer. */
static void check_worker(checkup *c) {
    static const char text[] =
        "return { name = \"probe\", score = function() return 1 end, cases = { { \"x\", {}, 1.0 } } }\n";
    char *dir = mr_strdup("/tmp/medrl-doctor-XXXXXX"), *file = NULL;
    mr_err err = { "" };
    mr_str out = { 0 };
    int passed = 0, failed = 0;
    if (!mkdtemp(dir)) {
        note(c, false, "worker", "free some space in /tmp, or let it be written", "no temporary folder in /tmp");
        mr_free(dir);
        return;
    }
    file = mr_path_join(dir, "probe.lua");
    mr_status st = mr_file_write(file, text, sizeof text - 1, &err);
    double t = mr_now_s();
    if (st == MR_OK) st = mr_script_test((const char *const[]){ file }, 1, &out, NULL, &passed, &failed, &err);
    t = mr_now_s() - t;
    if (st == MR_OK && passed > 0 && failed == 0)
        note(c, true, "worker", NULL, "starts, loads Lua and answers in %.1f ms", 1e3 * t);
    else
        note(c, false, "worker", "please report this with the kernel's version (uname -r)", "%s",
             st != MR_OK ? err.msg
             : out.len   ? out.data
                         : "no answer");
    mr_remove_tree(dir, NULL);
    mr_str_clear(&out);
    mr_free(file);
    mr_free(dir);
}

/* Level 2 is what keeps a hostile script in; below it scripts of others are a risk, and that is not well. */
static void check_sandbox(checkup *c) {
    static const char *const what[] = { "", "limits and an empty environment", "seccomp", "seccomp and landlock" };
    mr_err err = { "" };
    char missing[128];
    int level;
    if (mr_script_sandbox(&level, missing, sizeof missing, &err) != MR_OK) {
        note(c, false, "sandbox", "please report this with the kernel's version (uname -r)", "%s", err.msg);
        return;
    }
    note(c, level >= 2, "sandbox", "run no scripts of strangers, or use a kernel that allows seccomp",
         "level %d of 3: %s%s%s", level, what[level], missing[0] ? "; missing: " : "", missing);
    cJSON *o = cJSON_GetObjectItemCaseSensitive(c->report, "sandbox");
    cJSON_AddNumberToObject(o, "level", level);
    cJSON_AddStringToObject(o, "missing", missing);
}

mr_status mr_cmd_doctor(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "doctor",
        "medrl doctor",
        "",
        0,
        0,
        "Looks at processor, memory, folders, the default model, the Lua workers and their sandbox. A line that fails "
        "says what to "
        "do.",
    };
    checkup c = { 0 };
    const mr_opt opts[] = { { "json", 0, MR_OPT_FLAG, NULL, "as one JSON object", &c.json, 0, 0 } };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, 1, argc, argv, err);
    if (st == MR_OK && !a.help) {
        c.report = cJSON_CreateObject();
        check_cpu(&c);
        check_memory(&c);
        check_folders(&c);
        check_model(&c);
        check_hub(&c);
        check_worker(&c);
        check_sandbox(&c);
        if (c.json) mr_print_json(c.report);
        cJSON_Delete(c.report);
        fflush(stdout);
        if (c.n_failed)
            st = mr_fail(err, MR_EINVAL, "doctor: %d %s not well; the lines above say what to do", c.n_failed,
                         c.n_failed == 1 ? "thing is" : "things are");
    }
    mr_args_clear(&a);
    return st;
}
