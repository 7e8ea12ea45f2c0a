/* spin-router: parse the options, run, say how it went. */
#include "base/log.h"
#include "router/process.h"

#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct spin_router_options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    spin_status status = spin_config_load(&spin_router_config_spec, argc, argv, environ, &options,
                                          &values, &exit_now, &err);
    if (status == SPIN_OK && !exit_now) {
        status = spin_router_options_check(&options, &err);
    }
    int code = 0;
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin-router: %s\n", err.text);
        code = 2;
    } else if (!exit_now) {
        spin_log_set_level((enum spin_log_level)options.log_level);
        code = spin_router_process_run(&options, values);
    }
    spin_config_values_destroy(values);
    return code;
}
