/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folders of tests, that are gone when the test program is, however it ended. */
#pragma once

/**
 * Makes a folder in @where ("/tmp", or "/var/tmp" for what should be on a disk) and writes its path
 * to @ret_path, of @size bytes. It is removed with all that is in it when the program ends: also
 * after a test that failed, by alarm(2) and by the signals that ask a program to end.
 */
void scratch_dir(const char *where, char *ret_path, unsigned size);
