/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading the kernel log, for tests during which it must stay empty */
#ifndef __IOMMUFD_LOG_H
#define __IOMMUFD_LOG_H

#include "iommufd_stress.h"
#include "kselftest.h"

/* Lines that the kernel may log at any time: devices, and starved clocks */
static inline bool log_is_usual(const char *line)
{
	static const char *const usual[] = {
		"Adding to iommu group", "providing /dev/vfio/vfio", "guest:",
		"clocksource:", "Clockevents:", "hrtimer:",
		"high resolution mode", "sched_clock:", "tsc:",
		"perf: interrupt took too long",
		/* The next line has the details. */
		"[ cut here ]",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(usual); i++)
		if (strstr(line, usual[i]))
			return true;
	return line[0] == ' ';
}

/* Start at its end */
static inline int log_open(void)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (log >= 0)
		lseek(log, 0, SEEK_END);
	return log;
}

/* The next unexpected line, without its header; false if there is none */
static inline bool log_next(int log, char *text, size_t size)
{
	char line[1024];
	const char *from;
	ssize_t n;

	while ((n = read(log, line, sizeof(line) - 1)) > 0 ||
	       (n < 0 && errno == EPIPE)) {
		/* Lines were overwritten before they were read. */
		if (n < 0)
			snprintf(line, sizeof(line), "0,0,0;(lines are lost)");
		else
			line[n] = 0;
		if (log_is_usual(line))
			continue;
		from = strchr(line, ';');
		from = from ? from + 1 : line;
		snprintf(text, size, "%.*s", (int)strcspn(from, "\n"), from);
		return true;
	}
	return false;
}

#endif
