/* spin: the command line of the cluster; picks a command. */
#include "base/version.h"
#include "client/commands.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *help;
    int (*run)(int argc, char *const *argv);
} commands[] = {
    {"generate", "ask the cluster to answer or continue a prompt", spin_command_generate},
    {"chat", "talk with the model, line by line", spin_command_chat},
    {"status", "print who is in the cluster and how busy it is", spin_command_status},
    {"bench", "measure a server: latencies, throughput, errors", spin_command_bench},
};

static void print_help(FILE *out)
{
    (void)fputs("usage: spin COMMAND [options]\n\n", out);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(commands); i++) {
        (void)fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    }
    (void)fputs(
        "\nspin COMMAND --help lists the options of a command; spin --version the version.\n", out);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(commands); i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0) {
        (void)printf("spin %s\n", SPIN_VERSION);
        return 0;
    }
    if (name[0] != '\0') {
        (void)fprintf(stderr, "spin: unknown command \"%s\"\n", name);
    }
    print_help(stderr);
    return 2;
}
