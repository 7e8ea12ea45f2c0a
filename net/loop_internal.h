/* loop_internal: what the files of net share: the loop's insides and address texts.
 *
 * Why        Timers, names and the HTTP server are handles of the one libuv loop; nothing outside
 *            net/ sees libuv.
 * Threading  The loop's thread; addresses: any thread.
 * Errors     Foreign failures as ours. */
#pragma once

#include "base/assert.h"
#include "net/loop.h"

#include <uv.h>

SPIN_BEGIN_DECLS

#define SPIN_NET_ADDRESS_BYTES 64 /* "[v6]:port" needs 54 */

struct uv_loop_s *spin_loop_uv(struct spin_loop *loop);
/* Whatever holds handles of the loop: it must be released before the loop is destroyed. */
void spin_loop_hold(struct spin_loop *loop);
void spin_loop_release(struct spin_loop *loop);

/* A foreign failure as ours. */
spin_status spin_net_status(int uv_error);

/* "1.2.3.4:80", "[::1]:80"; "?" for a family that is neither. */
void spin_net_format(const struct sockaddr *address, char out[SPIN_NET_ADDRESS_BYTES]);

SPIN_END_DECLS
