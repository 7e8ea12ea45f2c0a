/* spin-bench: the load generator; `spin bench` is this. Picks a command. */
#include "bench/load/commands.h"
#include "bench/report/commands.h"

#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char *const *argv);
} commands[] = {
    {"compare", spin_bench_compare_main},
    {"report", spin_bench_report_main},
    {"sweep", spin_bench_sweep_main},
};

int main(int argc, char **argv)
{
    for (uint32_t i = 0; argc > 1 && i < SPIN_ARRAY_COUNT(commands); i++) {
        if (strcmp(commands[i].name, argv[1]) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return spin_bench_run_main(argc, argv);
}
