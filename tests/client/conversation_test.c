/* Turns come and go, the system message stays first: a table of operations, each with the roles
 * and texts that must be there after it. */
#include "client/conversation.h"

#include "tests/spin_test.h"

/* "s:Be brief. u:Hi a:Hello" */
static void expect(const struct spin_client_message *messages, uint32_t count, const char *wanted)
{
    char got[256] = "";
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += (size_t)snprintf(got + bytes, sizeof got - bytes, "%s%c:%s", i == 0 ? "" : " ",
                                  messages[i].role[0], messages[i].content);
    }
    assert_string_equal(got, wanted);
}

static void add(struct spin_conversation *conversation, const char *role, const char *text)
{
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_conversation_add(conversation, role, text, &err), &err);
}

static void set_system(struct spin_conversation *conversation, const char *text)
{
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_conversation_set_system(conversation, text, &err), &err);
}

static void test_turns(void **state)
{
    (void)state;
    struct spin_conversation c = {.count = 0};
    set_system(&c, NULL);
    expect(c.messages, c.count, "");
    add(&c, "user", "1");
    add(&c, "assistant", "one");
    set_system(&c, "first"); /* goes to the front, even late */
    expect(c.messages, c.count, "s:first u:1 a:one");
    set_system(&c, "second");
    add(&c, "user", "2");
    expect(c.messages, c.count, "s:second u:1 a:one u:2");
    spin_conversation_drop_last(&c);
    expect(c.messages, c.count, "s:second u:1 a:one");
    spin_conversation_reset(&c);
    expect(c.messages, c.count, "s:second");
    set_system(&c, NULL);
    expect(c.messages, c.count, "");
    spin_conversation_deinit(&c);
    spin_conversation_deinit(&c); /* zeroed again */
}

static void test_what_is_left_without_the_oldest(void **state)
{
    (void)state;
    for (uint32_t with_system = 0; with_system < 2; with_system++) {
        struct spin_conversation c = {.count = 0};
        set_system(&c, with_system == 1 ? "s" : NULL);
        for (uint32_t turn = 0; turn < 20; turn++) { /* more than the first allocation holds */
            char text[8];
            (void)snprintf(text, sizeof text, "%u", turn);
            add(&c, "user", text);
            add(&c, "assistant", text);
        }
        add(&c, "user", "now");
        struct spin_client_message view[64];
        uint32_t count = spin_conversation_view(&c, 0, view);
        assert_int_equal(count, c.count);
        count = spin_conversation_view(&c, 19, view);
        expect(view, count, with_system == 1 ? "s:s u:19 a:19 u:now" : "u:19 a:19 u:now");
        count = spin_conversation_view(&c, 20, view);
        expect(view, count, with_system == 1 ? "s:s u:now" : "u:now");
        assert_int_equal(spin_conversation_view(&c, 21, view), 0);
        assert_int_equal(spin_conversation_view(&c, 1000, view), 0);
        spin_conversation_forget(&c, 19);
        expect(c.messages, c.count, with_system == 1 ? "s:s u:19 a:19 u:now" : "u:19 a:19 u:now");
        spin_conversation_deinit(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_what_is_left_without_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
