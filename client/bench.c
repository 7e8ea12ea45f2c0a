#include "client/commands.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The load generator is a program of its own: `spin` stays small, and it may be anywhere. */
#define VARIABLE "SPIN_BENCH"

/* Beside `spin` where programs are installed; where Bazel leaves both otherwise. */
static const char *const places[] = {"spin-bench", "../bench/load/spin-bench"};

static const char *from_environment(void)
{
    static const char start[] = VARIABLE "=";
    for (char *const *entry = environ; *entry != NULL; entry++) {
        if (strncmp(*entry, start, sizeof start - 1) == 0 && (*entry)[sizeof start - 1] != '\0') {
            return *entry + sizeof start - 1;
        }
    }
    return NULL;
}

/* The folder of this program, with a slash at its end. */
static bool own_folder(char out[PATH_MAX])
{
    const ssize_t bytes = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (bytes <= 0) {
        return false;
    }
    out[bytes] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL) {
        return false;
    }
    slash[1] = '\0';
    return true;
}

static bool find_program(char out[PATH_MAX])
{
    char folder[PATH_MAX];
    const char *given = from_environment();
    if (given != NULL) {
        return snprintf(out, PATH_MAX, "%s", given) < PATH_MAX;
    }
    for (uint32_t i = 0; own_folder(folder) && i < SPIN_ARRAY_COUNT(places); i++) {
        if (snprintf(out, PATH_MAX, "%s%s", folder, places[i]) < PATH_MAX &&
            access(out, X_OK) == 0) {
            return true;
        }
    }
    return false;
}

int spin_command_bench(int argc, char *const *argv)
{
    char program[PATH_MAX];
    (void)argc; /* argv ends with a NULL, as main's does */
    if (!find_program(program)) {
        (void)fprintf(stderr, "spin bench: no spin-bench beside this program; " VARIABLE
                              " may say where it is\n");
        return 1;
    }
    (void)execv(program, argv);
    (void)fprintf(stderr, "spin bench: %s: ", program);
    perror(NULL);
    return 1;
}
