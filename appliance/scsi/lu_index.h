/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Logical units by what identifies them (VPD page 83h), and the targets that show each: for
 * third-party copy, whose descriptors name a logical unit and nothing else.
 *
 * A search tree over the designators of all logical units that some target maps. Each has a list
 * of places, a target that maps a logical unit of that name, so that a look-up costs the depth of
 * the tree and the places of one name, however many targets there are.
 */
#pragma once

struct scsi_lu;
struct scsi_target;

/** @t maps @lu, once more. -ENOMEM. Any thread. */
int lu_index_add(struct scsi_target *t, struct scsi_lu *lu);
/** @t maps @lu once less. The caller's reference to @lu is still there. Any thread. */
void lu_index_remove(struct scsi_target *t, struct scsi_lu *lu);
