/* cluster_view: a router's description of its cluster, as tables for people and as JSON.
 *
 * Why        What is shown is a matter of its own, apart from asking: a test prints any cluster
 *            that it makes up.
 * Rules      Tables fit 100 columns while members' ids are addresses of IPv4; the model's name and
 *            a request's id stand last. A part that a member did not send counts as zeros.
 * Ownership  Borrows the message.
 * Threading  Any thread; one at a time per stream.
 * Units      Bytes in powers of 1,024, counts in powers of 1,000 (k, M, G, T); pages of one
 *            (layer, KV head).
 * Errors     None; a failed write shows in the stream's error flag. */
#pragma once

#include "base/base.h"
#include "proto/spin/v1/cluster.pb-c.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

/* Two lines' worth of a member: load and KV. `target`: the router's address, as it was dialled. */
void spin_cluster_view_members(const Spin__V1__ClusterDescribeResponse *cluster, const char *target,
                               FILE *out);
/* A line for every request that holds KV, by member, oldest first. */
void spin_cluster_view_requests(const Spin__V1__ClusterDescribeResponse *cluster, FILE *out);
/* One object, on one line. */
void spin_cluster_view_json(const Spin__V1__ClusterDescribeResponse *cluster, FILE *out);

SPIN_END_DECLS
