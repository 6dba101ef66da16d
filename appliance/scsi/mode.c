/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MODE SENSE and MODE SELECT (SPC-4 6.9 to 6.12, SBC-3 6.5.2).
 *
 * The values live in struct lu_modes, current and saved, under lu->lock. What others of the device
 * server obey is copied into the atomics of lu->mode, and SWP into a gate, whenever current values
 * change. MODE SELECT takes the LU's turnstile: it applies the list to a copy, writes the state
 * file first with SP, turns the write cache off only after a flush, and then puts the copy in
 * place; until then nothing has changed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/mode_pages.h"
#include "scsi/scsi_commands_b.h"
#include "scsi/scsi_internal.h"
#include "scsi/state_change.h"

struct lu_modes {
	struct mode_values current, saved;
	struct state_turn turn;
};

static struct lu_modes *modes_of(struct scsi_lu *lu)
{
	return lu->mode.priv;
}

/** The current values are in force from here on. */
static void obey_locked(struct scsi_lu *lu)
{
	const struct mode_values *v = &modes_of(lu)->current;
	const uint8_t *control = v->page[MODE_CONTROL];

	mutex_assert_held(&lu->lock);
	atomic_store(&lu->mode.d_sense, control[MODE_CONTROL_BYTE_D_SENSE] & MODE_CONTROL_D_SENSE);
	atomic_store(&lu->mode.tas, control[MODE_CONTROL_BYTE_TAS] & MODE_CONTROL_TAS);
	atomic_store(&lu->mode.wce_off,
		     !(v->page[MODE_CACHING][MODE_CACHING_BYTE_WCE] & MODE_CACHING_WCE));
	scsi_lu_set_gate(lu, SCSI_GATE_SWP, control[MODE_CONTROL_BYTE_SWP] & MODE_CONTROL_SWP);
}

/* --- MODE SENSE --- */

enum { PC_CURRENT, PC_CHANGEABLE, PC_DEFAULT, PC_SAVED };

/** The bytes of page @id that page control @pc asks for. */
static void page_values(struct scsi_lu *lu, enum mode_page_id id, unsigned pc, uint8_t *out)
{
	const struct mode_page *p = &mode_pages[id];
	const uint8_t *src = p->preset;

	mutex_lock(&lu->lock);
	if (pc == PC_CURRENT)
		src = modes_of(lu)->current.page[id];
	else if (pc == PC_SAVED)
		src = modes_of(lu)->saved.page[id];
	else if (pc == PC_CHANGEABLE)
		src = p->changeable;
	memcpy(out, src, p->len);
	mutex_unlock(&lu->lock);
	memcpy(out, p->preset, p->subpage ? 4 : 2); /* the header is the same for all */
	if (state_can_save(lu))
		out[0] |= 0x80; /* PS */
}

/** Block descriptors (SBC-3 6.5.2.2, 6.5.2.3); returns their length. */
static size_t put_block_descriptor(struct scsi_lu *lu, bool longlba, uint8_t *out)
{
	uint64_t blocks = atomic_load(&lu->blocks);

	if (longlba) {
		put_be64(out, blocks);
		put_be32(out + 12, lu->block_size);
		return 16;
	}
	put_be32(out, blocks > UINT32_MAX ? UINT32_MAX : (uint32_t)blocks);
	put_be24(out + 5, lu->block_size);
	return 8;
}

static uint8_t device_specific(struct scsi_lu *lu)
{
	bool wp = scsi_lu_gates(lu) & (SCSI_GATE_READ_ONLY | SCSI_GATE_SWP);

	return (uint8_t)((wp ? 0x80 : 0) | 0x10); /* WP, DPOFUA */
}

static void sense(struct scsi_cmd *cmd, bool ten)
{
	uint8_t buf[8 + 16 + MODE_PAGE_COUNT * MODE_PAGE_MAX] = {0};
	uint8_t code = cmd->cdb[2] & 0x3f, subpage = cmd->cdb[3];
	unsigned pc = cmd->cdb[2] >> 6;
	bool longlba = ten && cmd->cdb[1] & 0x10, dbd = cmd->cdb[1] & 0x08;
	size_t n = ten ? 8 : 4, bd_len = 0, pages;

	if (pc == PC_SAVED && !state_can_save(cmd->lu)) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
		return;
	}
	if (!dbd)
		bd_len = put_block_descriptor(cmd->lu, longlba, buf + n);
	n += bd_len;
	pages = n;
	for (int i = 0; i < MODE_PAGE_COUNT; i++) {
		if (!mode_page_wanted((enum mode_page_id)i, code, subpage))
			continue;
		page_values(cmd->lu, (enum mode_page_id)i, pc, buf + n);
		n += mode_pages[i].len;
	}
	if (n == pages) {
		bool known = false;

		for (int i = 0; i < MODE_PAGE_COUNT; i++)
			known = known || mode_pages[i].code == code || code == 0x3f;
		scsi_bad_cdb_field(cmd, known ? 3 : 2, known ? -1 : 5);
		return;
	}
	if (ten) {
		put_be16(buf, (uint16_t)(n - 2));
		buf[3] = device_specific(cmd->lu);
		buf[4] = longlba && bd_len;
		put_be16(buf + 6, (uint16_t)bd_len);
	} else {
		buf[0] = (uint8_t)(n - 1);
		buf[2] = device_specific(cmd->lu);
		buf[3] = (uint8_t)bd_len;
	}
	scsi_reply(cmd, buf, n);
}

void scsi_mode_sense6(struct scsi_cmd *cmd)
{
	sense(cmd, false);
}

void scsi_mode_sense10(struct scsi_cmd *cmd)
{
	sense(cmd, true);
}

/* --- MODE SELECT --- */

struct mode_select {
	struct state_change change;
	struct scsi_cmd *cmd;
	bool save;
	size_t pages; /* offset of the first page in the list */
	struct mode_values next;
};

/** Checks the block descriptor at @off; it may say what is true already. */
static bool check_block_descriptor(struct scsi_cmd *cmd, size_t off, bool longlba)
{
	const uint8_t *p = cmd->out->data + off;
	uint64_t capacity = atomic_load(&cmd->lu->blocks);
	uint64_t blocks = longlba ? get_be64(p) : get_be32(p);
	uint32_t size = longlba ? get_be32(p + 12) : get_be24(p + 5);
	uint64_t all = longlba ? UINT64_MAX : UINT32_MAX;

	if (blocks && blocks != capacity && blocks != all) {
		scsi_bad_param_field(cmd, (unsigned)off, -1);
		return false;
	}
	if (size != cmd->lu->block_size) {
		scsi_bad_param_field(cmd, (unsigned)off + (longlba ? 12 : 5), -1);
		return false;
	}
	return true;
}

/** The header of the parameter list. Returns the offset of the pages, or 0: the command ended. */
static size_t check_header(struct scsi_cmd *cmd, bool ten)
{
	const uint8_t *p = cmd->out->data;
	size_t header = ten ? 8 : 4, bd_len;
	bool longlba;

	if (cmd->out_len < header) {
		scsi_bad_param_length(cmd);
		return 0;
	}
	if (p[ten ? 2 : 1]) { /* MEDIUM TYPE */
		scsi_bad_param_field(cmd, ten ? 2 : 1, -1);
		return 0;
	}
	longlba = ten && p[4] & 0x01;
	bd_len = ten ? get_be16(p + 6) : p[3];
	if (bd_len && bd_len != (longlba ? 16u : 8u)) {
		scsi_bad_param_field(cmd, ten ? 6 : 3, -1);
		return 0;
	}
	if (cmd->out_len < header + bd_len) {
		scsi_bad_param_length(cmd);
		return 0;
	}
	if (bd_len && !check_block_descriptor(cmd, header, longlba))
		return 0;
	return header + bd_len;
}

/** The new values take effect; the other nexuses hear of it when anything is different. */
static void commit(struct mode_select *ms)
{
	struct scsi_cmd *cmd = ms->cmd;
	struct scsi_lu *lu = cmd->lu;
	struct lu_modes *m = modes_of(lu);
	bool changed;

	mutex_lock(&lu->lock);
	changed = memcmp(&m->current, &ms->next, sizeof(ms->next)) != 0;
	m->current = ms->next;
	if (ms->save)
		m->saved = ms->next;
	obey_locked(lu);
	if (changed)
		scsi_ua_raise_locked(lu, SCSI_UA_MODE_CHANGED, cmd->nexus);
	mutex_unlock(&lu->lock);
	state_change_leave(&ms->change);
	scsi_good(cmd);
}

static void flushed(struct lun_io *io)
{
	struct mode_select *ms = scsi_cmd_of_io(io)->priv;

	if (!io->err) {
		commit(ms);
		return;
	}
	atomic_store(&ms->cmd->lu->mode.wce_off, false);
	state_change_leave(&ms->change);
	scsi_fail_errno(ms->cmd, io->err, true, 0);
}

/**
 * A write cache that is turned off holds nothing any more (SBC-3 6.5.5): from now on writes go
 * through, then what came before is flushed.
 */
static void flush_or_commit(struct mode_select *ms)
{
	struct scsi_lu *lu = ms->cmd->lu;
	bool off = !(ms->next.page[MODE_CACHING][MODE_CACHING_BYTE_WCE] & MODE_CACHING_WCE);

	if (!off || atomic_exchange(&lu->mode.wce_off, true)) {
		commit(ms);
		return;
	}
	scsi_io(ms->cmd, lu->lun, LUN_FLUSH, 0, 0, 0, NULL, 0, flushed);
}

static void select_saved(struct state_change *sc, int err)
{
	struct mode_select *ms = container_of(sc, struct mode_select, change);

	if (!err) {
		flush_or_commit(ms);
		return;
	}
	state_change_leave(sc);
	scsi_check(ms->cmd, SENSE_HARDWARE_ERROR, ASC_INTERNAL_TARGET_FAILURE);
}

static void select_begin(struct state_change *sc)
{
	struct mode_select *ms = container_of(sc, struct mode_select, change);
	struct scsi_cmd *cmd = ms->cmd;
	struct mode_refusal why;
	int ret;

	mutex_lock(&cmd->lu->lock); /* who has the turn changes it, or a reset */
	ms->next = modes_of(cmd->lu)->current;
	mutex_unlock(&cmd->lu->lock);
	ret = mode_values_select(&ms->next, cmd->out->data + ms->pages, cmd->out_len - ms->pages,
				 (unsigned)ms->pages, &why);
	if (ret) {
		state_change_leave(sc);
		if (why.length)
			scsi_bad_param_length(cmd);
		else
			scsi_bad_param_field(cmd, why.byte, why.bit);
		return;
	}
	if (!ms->save) {
		flush_or_commit(ms);
		return;
	}
	state_file_name(cmd->lu, "modes", sc->name);
	sc->text = mode_values_encode(&ms->next, lun_identity(cmd->lu->lun)->serial);
	if (!sc->text) {
		state_change_leave(sc);
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	state_change_save(sc, select_saved);
}

static void select_pages(struct scsi_cmd *cmd, bool ten)
{
	uint32_t len = ten ? get_be16(cmd->cdb + 7) : cmd->cdb[4];
	struct mode_select *ms;
	size_t pages;

	if (!len) {
		scsi_good(cmd);
		return;
	}
	if (!(cmd->cdb[1] & 0x10)) { /* PF: pages in a format of the vendor's are unknown here */
		scsi_bad_cdb_field(cmd, 1, 4);
		return;
	}
	if (cmd->cdb[1] & 0x01 && !state_can_save(cmd->lu)) {
		scsi_bad_cdb_field(cmd, 1, 0);
		return;
	}
	if (cmd->out_len < len) {
		scsi_bad_param_length(cmd);
		return;
	}
	pages = check_header(cmd, ten);
	if (!pages)
		return;
	ms = calloc(1, sizeof(*ms));
	if (!ms) {
		scsi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INSUFFICIENT_RESOURCES);
		return;
	}
	ms->cmd = cmd;
	ms->save = cmd->cdb[1] & 0x01;
	ms->pages = pages;
	cmd->priv = ms;
	cmd->priv_free = free;
	state_change_enter(&ms->change, cmd, &modes_of(cmd->lu)->turn, select_begin);
}

void scsi_mode_select6(struct scsi_cmd *cmd)
{
	select_pages(cmd, false);
}

void scsi_mode_select10(struct scsi_cmd *cmd)
{
	select_pages(cmd, true);
}

/* --- life --- */

int scsi_mode_create(struct scsi_lu *lu, struct reason *why)
{
	struct lu_modes *m = calloc(1, sizeof(*m));
	char *text = NULL;
	int ret;

	if (!m)
		return reason_set(why, ENOMEM, "no memory for mode pages");
	state_turn_init(&m->turn);
	mode_values_preset(&m->saved);
	ret = state_load(lu, "modes", &text, why);
	if (!ret && text)
		ret = mode_values_decode(text, lun_identity(lu->lun)->serial, &m->saved, why);
	free(text);
	if (ret) {
		free(m);
		return reason_prefix(why, ret, "%s", lun_name(lu->lun));
	}
	m->current = m->saved;
	lu->mode.priv = m;
	mutex_lock(&lu->lock);
	obey_locked(lu);
	mutex_unlock(&lu->lock);
	return 0;
}

void scsi_mode_destroy(struct scsi_lu *lu)
{
	free(lu->mode.priv);
	lu->mode.priv = NULL;
}

void scsi_mode_reset(struct scsi_lu *lu)
{
	struct lu_modes *m = modes_of(lu);

	mutex_scope(&lu->lock);
	m->current = m->saved;
	obey_locked(lu);
}
