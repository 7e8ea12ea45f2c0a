/* Any bytes as a configuration file: a list of keys or an error that says where, and the list is
 * within its limits. */
#include "base/assert.h"
#include "base/config_file.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check_entries(const struct spin_config_file *file)
{
    SPIN_ASSERT_LE(file->count, SPIN_CONFIG_FILE_KEYS_MAX);
    for (uint32_t i = 0; i < file->count; i++) {
        SPIN_ASSERT(file->entries[i].key != NULL);
        SPIN_ASSERT_GT(file->entries[i].line, 0);
        for (uint32_t k = 0; k < i; k++) {
            SPIN_ASSERT(strcmp(file->entries[k].key, file->entries[i].key) != 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_config_file file = {0};
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status =
        spin_config_file_parse((const char *)bytes, count, "fuzz.yaml", &file, &err);
    if (status == SPIN_OK) {
        check_entries(&file);
    } else {
        SPIN_ASSERT_EQ(err.status, status);
        SPIN_ASSERT(strncmp(err.text, "fuzz.yaml", 9) == 0);
        SPIN_ASSERT_EQ(file.count, 0);
    }
    spin_config_file_deinit(&file);
    return 0;
}
