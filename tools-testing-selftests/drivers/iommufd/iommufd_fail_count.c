// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run the iommufd_fail_nth of the kernel, and count the failures that each of
 * its scenarios triggers. A path without points of injection passes that test
 * without having been tested. With -i only iommufd_should_fail() fails, and no
 * allocations.
 *
 * Failures are counted where the test asks for the next one, in memory shared
 * with the processes that run its scenarios.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static ssize_t count_failure(const char *scenario, int fd, const void *nth,
			     size_t size, off_t offset);

#define pwrite(args...) count_failure(_metadata->name, args)
#define main iommufd_fail_nth_main
#include "../../iommu/iommufd_fail_nth.c"
#undef main
#undef pwrite

#define SCENARIOS_MAX 64

struct scenario {
	char name[64];
	/* The last failure that was requested; it has not occurred. */
	unsigned int nth;
};

static struct scenario *scenarios;

static ssize_t count_failure(const char *name, int fd, const void *nth,
			     size_t size, off_t offset)
{
	unsigned int i, n = atoi(nth);

	for (i = 0; i < SCENARIOS_MAX; i++) {
		if (!*scenarios[i].name)
			snprintf(scenarios[i].name, sizeof(scenarios[i].name),
				 "%s", name);
		if (strcmp(scenarios[i].name, name))
			continue;
		if (n > scenarios[i].nth)
			scenarios[i].nth = n;
		break;
	}
	return pwrite(fd, nth, size, offset);
}

/* Allocations fail only from caches that are marked; mark none. */
static void inject_by_iommufd_only(bool only)
{
	int debugfs = open("/sys/kernel/debug", O_RDONLY);

	writeat(debugfs, "failslab/cache-filter", only ? "Y" : "N");
	writeat(debugfs, "fail_page_alloc/min-order", only ? "99" : "0");
	close(debugfs);
}

/* The test ends with exit(). */
static void report(void)
{
	unsigned int i;

	for (i = 0; i < SCENARIOS_MAX && *scenarios[i].name; i++)
		ksft_print_msg("failures %s %u\n", scenarios[i].name,
			       scenarios[i].nth ? scenarios[i].nth - 1 : 0);
}

int main(int argc, char **argv)
{
	bool only;

	scenarios = mmap(NULL, SCENARIOS_MAX * sizeof(*scenarios),
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	if (scenarios == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	atexit(report);
	only = argc > 1 && !strcmp(argv[1], "-i");
	inject_by_iommufd_only(only);
	if (only) {
		argv[1] = argv[0];
		argv++;
		argc--;
	}
	return iommufd_fail_nth_main(argc, argv);
}
