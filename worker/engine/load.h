/* load: the engine's latest spin_engine_load, for any thread to read whole.
 *
 * Why        A router's status stream and the scrape read several fields that belong to one moment;
 *            the engine's thread must not wait for them.
 * Threading  set: the engine's thread. get: any thread; it retries while a set is under way. */
#pragma once

#include "worker/engine/engine.h"

SPIN_BEGIN_DECLS

struct spin_load_board; /* private to load.c */

SPIN_MUST_USE spin_status spin_load_board_create(struct spin_load_board **out,
                                                 struct spin_error *err);
void spin_load_board_destroy(struct spin_load_board *board); /* NULL is allowed */
void spin_load_board_set(struct spin_load_board *board, const struct spin_engine_load *load);
void spin_load_board_get(const struct spin_load_board *board, struct spin_engine_load *out);

SPIN_END_DECLS
