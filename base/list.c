#include "base/list.h"

void spin_list_init(struct spin_list *list)
{
    list->head.prev = &list->head;
    list->head.next = &list->head;
    list->count = 0;
}

static void insert_between(struct spin_list *list, struct spin_link *link, struct spin_link *prev,
                           struct spin_link *next)
{
    SPIN_ASSERT(link->prev == NULL);
    SPIN_ASSERT(link->next == NULL);
    link->prev = prev;
    link->next = next;
    prev->next = link;
    next->prev = link;
    list->count++;
}

void spin_list_push_back(struct spin_list *list, struct spin_link *link)
{
    insert_between(list, link, list->head.prev, &list->head);
}

void spin_list_push_front(struct spin_list *list, struct spin_link *link)
{
    insert_between(list, link, &list->head, list->head.next);
}

void spin_list_insert_before(struct spin_list *list, struct spin_link *next, struct spin_link *link)
{
    SPIN_ASSERT(next->prev != NULL);
    insert_between(list, link, next->prev, next);
}

void spin_list_remove(struct spin_list *list, struct spin_link *link)
{
    SPIN_ASSERT(link->prev != NULL);
    SPIN_ASSERT(link->next != NULL);
    SPIN_ASSERT(link->prev->next == link);
    SPIN_ASSERT(link->next->prev == link);
    SPIN_ASSERT_GT(list->count, 0);
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->prev = NULL;
    link->next = NULL;
    list->count--;
}

static struct spin_link *or_end(const struct spin_list *list, struct spin_link *link)
{
    return link == &list->head ? NULL : link;
}

struct spin_link *spin_list_first(const struct spin_list *list)
{
    return or_end(list, list->head.next);
}

struct spin_link *spin_list_last(const struct spin_list *list)
{
    return or_end(list, list->head.prev);
}

struct spin_link *spin_list_next(const struct spin_list *list, const struct spin_link *link)
{
    SPIN_ASSERT(link->next != NULL);
    return or_end(list, link->next);
}
