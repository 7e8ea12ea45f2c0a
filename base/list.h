/* list: an intrusive doubly linked list; the link lives in the element.
 *
 * Why        Queues of requests move without allocation, and an element can leave from the middle.
 * Ownership  The list owns nothing. An element is in at most one list per link.
 * Threading  One thread at a time. */
#pragma once

#include "base/assert.h"

SPIN_BEGIN_DECLS

struct spin_link {
    struct spin_link *prev; /* both NULL: in no list */
    struct spin_link *next;
};

struct spin_list {
    struct spin_link head; /* circular; an empty list points at itself */
    uint32_t count;
};

void spin_list_init(struct spin_list *list);
void spin_list_push_back(struct spin_list *list, struct spin_link *link);
void spin_list_push_front(struct spin_list *list, struct spin_link *link);
/* `next` is in the list. */
void spin_list_insert_before(struct spin_list *list, struct spin_link *next,
                             struct spin_link *link);
void spin_list_remove(struct spin_list *list, struct spin_link *link);
struct spin_link *spin_list_first(const struct spin_list *list); /* NULL when empty */
struct spin_link *spin_list_last(const struct spin_list *list);  /* NULL when empty */
/* The one after, or NULL at the end. */
struct spin_link *spin_list_next(const struct spin_list *list, const struct spin_link *link);

#define SPIN_CONTAINER_OF(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
/* `link` is declared here, so it cannot stand in parentheses.
 * NOLINTBEGIN(bugprone-macro-parentheses) */
#define SPIN_LIST_FOREACH(list, link) \
    for (struct spin_link *link = spin_list_first(list); (link) != NULL; \
         (link) = spin_list_next((list), (link)))
/* NOLINTEND(bugprone-macro-parentheses) */

SPIN_END_DECLS
