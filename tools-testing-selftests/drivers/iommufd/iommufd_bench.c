// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure the cost of operations of iommufd, on the page table of a device.
 *
 * Usage: iommufd_bench [-h] [options], see usage() below
 *
 * Output is "large <size>", for the size of the large mappings, and rows:
 *
 *     bench <implementation> <operation> <memory> <size> <cost> <unit> [<ns>]
 *
 * The cost is that of the whole system call, the least of the repeats. <ns> is
 * the wall time, if the unit is not nanoseconds. A device has to be bound to
 * vfio-pci (or any driver with a VFIO cdev); it does no DMA.
 *
 * To compare implementations, they are measured with the same physical memory:
 * with -i, each kind of memory is allocated once, and the command of -x is run
 * to load one module after the other.
 *
 * In QEMU with a plugin that counts instructions, the unit is guest
 * instructions: the plugin recognises two NOPs around the measured code, and
 * writes the count to the variable that is loaded after the second one. Without
 * it the NOPs have no effect, the variable keeps its value, and the unit is
 * nanoseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/iommufd.h>

#include "iommufd_bench.h"

const char *device_name;
int repeats = 5;
size_t large = SZ_1G;
u64 overhead_insns, overhead_ns;
bool counted;

static const char *only;
static const char *only_kind;
static size_t only_size;
static const char *hook;
/* The implementation that is being measured */
static const char *implementation;

void fail(const char *format, ...)
{
	int error = errno;
	va_list args;

	fprintf(stderr, "iommufd_bench: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

bool wanted(const char *ops)
{
	char name[32];
	int len;

	if (!only)
		return true;
	while (sscanf(ops, "%31s%n", name, &len) == 1) {
		if (!fnmatch(only, name, 0))
			return true;
		ops += len;
	}
	return false;
}

struct sample sample_of(const char *op)
{
	return (struct sample){
		.op = op,
		.muted = !wanted(op),
		.best = UINT64_MAX,
		.best_ns = UINT64_MAX,
	};
}

static void calibrate(void)
{
	struct sample sample = {
		.best = UINT64_MAX,
		.best_ns = UINT64_MAX,
	};
	int i;

	for (i = 0; i < 100; i++) {
		start(&sample);
		stop(&sample);
	}
	if (counted)
		overhead_insns = sample.best;
	overhead_ns = sample.best_ns;
}

bool wanted_only(const char *op)
{
	return only && wanted(op);
}

bool wanted_size(size_t size)
{
	return size <= large && (!only_size || only_size == size);
}

static bool wanted_kind(const char *kind)
{
	return !only_kind || !strcmp(only_kind, kind);
}

int rounds_of(size_t size)
{
	return size < 16 * SZ_2M ? repeats : (repeats + 1) / 2;
}

static const char *size_text(size_t size)
{
	static char text[32];
	int at = 0;

	while (size && size % 1024 == 0 && at < 3) {
		size /= 1024;
		at++;
	}
	snprintf(text, sizeof(text), "%zu%c", size, "BKMG"[at]);
	return text;
}

void report_value(const char *op, const char *memory, size_t size, u64 value,
		  const char *unit)
{
	if (!wanted(op))
		return;
	/* Negative if others have freed memory meanwhile. */
	printf("bench %s %s %s %s %lld %s\n", implementation, op, memory,
	       size_text(size), (long long)value, unit);
	fflush(stdout);
}

void report(const struct sample *sample, const char *memory, size_t size,
	    unsigned int count)
{
	char unit[32] = "ns";

	if (sample->best == UINT64_MAX)
		return;
	if (counted)
		snprintf(unit, sizeof(unit), "insns %llu",
			 (unsigned long long)sample->best_ns / count);
	report_value(sample->op, memory, size, sample->best / count, unit);
}

/*
 * Run the hook. Not by fork(): this process would then copy pages when it
 * writes to them, also pinned ones, but the pages have to stay the same.
 */
static void enter(const char *name)
{
	char command[256], *argv[4] = { "sh", "-c", command };
	pid_t pid;
	int status;

	implementation = name;
	if (!hook)
		return;
	snprintf(command, sizeof(command), "%s %s", hook, name);
	errno = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (errno || waitpid(pid, &status, 0) < 0)
		fail("%s", command);
	errno = ECHILD;
	if (status)
		fail("%s: status %d", command, status);
}

/* Controls: no driver affects these */
static void bench_controls(void)
{
	struct sample getpid_cost = sample_of("getpid");
	struct sample enotty = sample_of("enotty");
	int i, fd = open("/dev/null", O_RDWR);

	for (i = 0; i < 10 * repeats; i++) {
		start(&getpid_cost);
		syscall(SYS_getpid);
		stop(&getpid_cost);
		start(&enotty);
		ioctl(fd, IOMMU_DESTROY, NULL);
		stop(&enotty);
	}
	close(fd);
	report(&getpid_cost, "-", 0, 1);
	report(&enotty, "-", 0, 1);
}

/* Rows that need no particular kind of memory */
static void bench_without_memory(const struct backend *backend)
{
	bench_controls();
	if (!backend)
		return;
	if (backend == &iommufd_backend) {
		bench_small();
		bench_compat_small(iommufd);
		bench_lookups();
		bench_lookup_writes();
	} else {
		bench_compat_small(container);
	}
}

/* The kinds of memory that are also measured before they are touched */
static bool has_cold(const char *kind)
{
	return !strcmp(kind, "anon4k") || !strcmp(kind, "thp") ||
	       !strcmp(kind, "hugetlb");
}

static void bench_untouched(const struct backend *backend, const char *kind)
{
	const size_t sizes[] = { SZ_2M, large };
	unsigned int i;

	for (i = 0; i < 2; i++)
		if (wanted_size(sizes[i]))
			bench_cold(backend, kind, sizes[i]);
}

static void bench_memory(const struct backend *backend,
			 const struct memory *mem)
{
	const size_t sizes[] = { SZ_4K, SZ_64K, SZ_2M, large };
	const size_t dirty_sizes[] = { SZ_128M, SZ_1G };
	bool anon4k = !strcmp(mem->kind, "anon4k");
	bool frag4k = !strcmp(mem->kind, "frag4k");
	bool thp = !strcmp(mem->kind, "thp");
	bool is_iommufd = backend == &iommufd_backend;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		size_t size = sizes[i];

		if (!wanted_size(size) ||
		    (!strcmp(mem->kind, "hugetlb") && size < SZ_2M) ||
		    (!strcmp(mem->kind, "hugefrag") && size < large))
			continue;
		/* At this size the kinds of memory do not differ. */
		if (size > SZ_4K || anon4k)
			bench_map(backend, "", mem, size);
		if (!is_iommufd)
			continue;
		if (mem->fd >= 0)
			bench_map(&file_backend, "file-", mem, size);
		if (size == SZ_4K ? anon4k : thp && size >= SZ_2M)
			bench_map(&compat_backend, "compat-", mem, size);
		if (mem->fd < 0 ? size > SZ_4K || anon4k : size >= SZ_2M)
			bench_second(mem, size);
		if (size <= SZ_2M && (anon4k || size > SZ_4K) &&
		    strcmp(mem->kind, "hugetlb"))
			bench_access(mem, size);
	}
	for (i = 0; i < 2 && is_iommufd && (frag4k || thp); i++) {
		if (wanted_size(dirty_sizes[i]))
			bench_dirty(mem, dirty_sizes[i]);
	}
	if (anon4k) {
		if (wanted_size(SZ_4K))
			bench_unmap_range(backend, mem, SZ_4K, 4000);
		if (wanted_size(SZ_64K))
			bench_unmap_range(backend, mem, SZ_64K, 2000);
	}
	if (thp && wanted_size(SZ_2M))
		bench_unmap_range(backend, mem, SZ_2M, 2000);
	if (!is_iommufd)
		return;
	if (anon4k && wanted_size(SZ_4K)) {
		bench_alloc_iova(mem, 0);
		bench_alloc_iova(mem, 1000);
		bench_alloc_iova(mem, 10000);
		bench_alloc_iova(mem, 100000);
		bench_area_usage(mem);
	}
	if (wanted_size(large) && mem->fd < 0)
		bench_usage(mem);
}

/* One turn, with @mem; or without memory, @kind being "none" or cold */
static void measure(const char *name, const struct backend *backend,
		    const char *kind, const struct memory *mem)
{
	enter(name);
	if (mem && !strcmp(mem->kind, "thp") && wanted_size(large))
		bench_vm(backend, mem);
	if (backend)
		backend->open();
	if (mem)
		bench_memory(backend, mem);
	else if (!strcmp(kind, "none"))
		bench_without_memory(backend);
	else
		bench_untouched(backend, kind);
	if (backend)
		backend->close();
}

/* "type1" and "none" (no backend) are special names; others are iommufd. */
static const struct backend *backend_of(const char *name)
{
	if (!strcmp(name, "none"))
		return NULL;
	return strcmp(name, "type1") ? &iommufd_backend : &type1_backend;
}

/* All of @names in turn, @rounds times. */
static void take_turns(const char *names, int rounds, const char *kind,
		       const struct memory *mem)
{
	char turns[256];
	char *name, *state;
	int round;

	for (round = 0; round < rounds; round++) {
		snprintf(turns, sizeof(turns), "%s", names);
		for (name = strtok_r(turns, ",", &state); name;
		     name = strtok_r(NULL, ",", &state)) {
			if (!strcmp(kind, "none") || backend_of(name))
				measure(name, backend_of(name), kind, mem);
		}
	}
}

static void __noreturn usage(int status)
{
	fprintf(status ? stderr : stdout,
		"Usage: iommufd_bench [options]\n"
		"  -b NAME       what to measure: iommufd, type1, or none for the controls only\n"
		"  -i NAME,...   several in turn; all but type1 and none are iommufds\n"
		"  -x COMMAND    run COMMAND NAME before each turn, as root\n"
		"  -r ROUNDS     turns (1)\n"
		"  -n REPEATS    of each operation (5)\n"
		"  -d vfioN      the device (the first one there is)\n"
		"  -s MIB        size of the large mappings (1024)\n"
		"  -o PATTERN    only operations of this name, as in 'map*'\n"
		"  -m KIND       only memory of this kind: anon4k, frag4k, thp, hugetlb, hugefrag,\n"
		"                memfd, or none for what needs none in particular\n"
		"  -S BYTES      only this size\n");
	exit(status);
}

int main(int argc, char **argv)
{
	/*
	 * The first user of hugetlbfs gets contiguous pages, if there are any.
	 */
	static const char * const kinds[] = {
		"hugetlb", "none", "anon4k", "frag4k", "thp", "hugefrag",
		"memfd", NULL
	};
	char names[256] = "iommufd";
	struct memory mem;
	int opt, rounds = 1;
	unsigned int i;

	while ((opt = getopt(argc, argv, "b:i:x:r:d:n:s:o:m:S:h")) != -1) {
		switch (opt) {
		case 'b':
		case 'i':
			snprintf(names, sizeof(names), "%s", optarg);
			break;
		case 'x':
			hook = optarg;
			break;
		case 'r':
			rounds = atoi(optarg);
			break;
		case 'd':
			device_name = optarg;
			break;
		case 'n':
			repeats = atoi(optarg);
			break;
		case 's':
			large = atol(optarg) * 1024 * 1024;
			break;
		case 'o':
			only = optarg;
			break;
		case 'm':
			only_kind = optarg;
			break;
		case 'S':
			only_size = atol(optarg);
			break;
		default:
			usage(opt == 'h' ? 0 : 2);
		}
	}
	if (optind < argc || repeats < 1 || rounds < 1 || large < SZ_2M ||
	    large % SZ_2M)
		usage(2);

	printf("large %s\n", size_text(large));
	calibrate();
	for (i = 0; kinds[i]; i++) {
		bool none = !strcmp(kinds[i], "none");

		if (!wanted_kind(kinds[i]))
			continue;
		if (!none && get_memory(&mem, kinds[i], large)) {
			take_turns(names, rounds, kinds[i], &mem);
			put_memory(&mem);
		}
		if (none || has_cold(kinds[i]))
			take_turns(names, rounds, kinds[i], NULL);
	}
	return 0;
}
