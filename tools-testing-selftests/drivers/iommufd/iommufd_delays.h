/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delays between two steps of the driver, see sys/delay.rs there: what others
 * can see between them lasts longer. The C driver has none.
 */
#ifndef __IOMMUFD_DELAYS_H
#define __IOMMUFD_DELAYS_H

#include <dirent.h>

#include "iommufd_stress.h"
#include "kselftest.h"

#define DELAYS "/sys/kernel/debug/iommufd_delays"
#define DELAYS_MAX 32
#define DELAY_NAME 24

static inline void delay_path(char *path, size_t size, const char *place)
{
	snprintf(path, size, DELAYS "/%.*s", DELAY_NAME, place);
}

/* Sleep there for this number of microseconds, or 0; false if it is unknown */
static inline bool set_delay(const char *place, unsigned int us)
{
	char path[80], text[16];

	delay_path(path, sizeof(path), place);
	snprintf(text, sizeof(text), "%u", us);
	return write_text(path, text);
}

/* How many tasks have slept there since it was set */
static inline unsigned int delayed(const char *place)
{
	unsigned int us, times = 0;
	char path[80];
	FILE *file;

	delay_path(path, sizeof(path), place);
	file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%u %u", &us, &times) != 2)
		times = 0;
	fclose(file);
	return times;
}

/* All places in alphabetical order; returns their number, 0 with C */
static inline unsigned int
list_delays(char names[DELAYS_MAX][DELAY_NAME])
{
	struct dirent **entries;
	unsigned int count = 0;
	int i, n;

	n = scandir(DELAYS, &entries, NULL, alphasort);
	for (i = 0; i < n; i++) {
		if (entries[i]->d_name[0] != '.' && count < DELAYS_MAX)
			snprintf(names[count++], DELAY_NAME, "%s",
				 entries[i]->d_name);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return count;
}

#endif
