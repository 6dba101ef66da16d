/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fake_runner.h"

char *tcmu_dev_get_cfgstring(struct tcmu_device *dev)
{
	return dev->cfgstring;
}

uint64_t tcmu_dev_get_num_lbas(struct tcmu_device *dev)
{
	return dev->num_lbas;
}

uint32_t tcmu_dev_get_block_size(struct tcmu_device *dev)
{
	return dev->block_size;
}

void tcmu_dev_set_write_cache_enabled(struct tcmu_device *dev, bool enabled)
{
	dev->write_cache = enabled;
}

void tcmu_dev_set_solid_state_media(struct tcmu_device *dev, bool solid_state)
{
	dev->solid_state = solid_state;
}

void tcmu_dev_set_unmap_enabled(struct tcmu_device *dev, bool enabled)
{
	dev->unmap = enabled;
}

void tcmu_dev_set_opt_unmap_gran(struct tcmu_device *dev, uint32_t len, bool split)
{
	dev->unmap_gran = len;
	dev->split = split;
}

void tcmu_dev_set_unmap_gran_align(struct tcmu_device *dev, uint32_t len)
{
	dev->unmap_align = len;
}

void tcmu_dev_set_opt_xcopy_rw_len(struct tcmu_device *dev, uint32_t len)
{
	dev->xcopy_len = len;
}

int tcmu_sense_set_data(uint8_t *sense_buf, uint8_t key, uint16_t asc_ascq)
{
	memset(sense_buf, 0, 96);
	sense_buf[0] = 0x70;
	sense_buf[2] = key;
	sense_buf[7] = 10;
	sense_buf[12] = asc_ascq >> 8;
	sense_buf[13] = asc_ascq & 0xff;
	return TCMU_SENSE_SET;
}

void tcmu_sense_set_info(uint8_t *sense_buf, uint32_t info)
{
	memset(sense_buf, 0, 18);
	sense_buf[0] = 0x80;
	for (int i = 0; i < 4; i++)
		sense_buf[3 + i] = (uint8_t)(info >> (24 - 8 * i));
}

__attribute__((format(printf, 3, 0))) static void say(const char *function, int line,
						      const char *fmt, va_list args)
{
	fprintf(stderr, "%s:%d: ", function, line);
	vfprintf(stderr, fmt, args);
}

void tcmu_err_message(struct tcmu_device *dev, const char *function, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(function, line, fmt, args);
	va_end(args);
}

void tcmu_info_message(struct tcmu_device *dev, const char *function, int line, const char *fmt,
		       ...)
{
	va_list args;

	va_start(args, fmt);
	say(function, line, fmt, args);
	va_end(args);
}
