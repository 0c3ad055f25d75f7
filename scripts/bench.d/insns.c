// SPDX-License-Identifier: GPL-2.0-only
/*
 * A QEMU TCG plugin that counts the guest instructions between two markers.
 *
 * The markers are NOPs that real code does not contain (see iommufd_bench.c).
 * A processor counts for itself, everything it executes in user space and in
 * the kernel, but interrupts: from one that comes in between until the processor
 * is back where it was, nothing counts. The instruction after the second marker
 * loads a variable of the guest; once it has, that variable holds the count.
 *
 *     -plugin insns.so[,profile=FILE][,writes=FILE]
 *
 * When QEMU ends, the file of profile= gets "pairs N" and for each block of guest
 * code that was executed between markers "ADDRESS INSTRUCTIONS TIMES". The one of
 * writes= gets "PROCESSOR ADDRESS CODE" for each address of the kernel that a
 * processor wrote to between markers, with the first code that did.
 *
 * Debian packages no header of the interface, so what is used is declared
 * here, as of version 7.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* The interface */

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;

typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;

/* GLib's, of which only the fields are needed */
typedef struct {
	uint8_t *data;
	unsigned int len;
} GByteArray;

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W };
enum qemu_plugin_cond { QEMU_PLUGIN_COND_NE = 3 };
enum qemu_plugin_discon_type { QEMU_PLUGIN_DISCON_INTERRUPT = 1 };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

typedef void (*vcpu_cb)(unsigned int vcpu, void *data);
typedef void (*mem_cb)(unsigned int vcpu, uint32_t info, uint64_t vaddr,
		       void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void *cb,
					   void *data);
void qemu_plugin_register_vcpu_tb_exec_cond_cb(struct qemu_plugin_tb *tb,
					       vcpu_cb cb,
					       enum qemu_plugin_cb_flags flags,
					       enum qemu_plugin_cond cond,
					       qemu_plugin_u64 entry,
					       uint64_t imm, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    vcpu_cb cb,
					    enum qemu_plugin_cb_flags flags,
					    void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
	struct qemu_plugin_insn *insn, enum qemu_plugin_op op,
	qemu_plugin_u64 entry, uint64_t imm);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_cb cb,
				      enum qemu_plugin_cb_flags flags,
				      enum qemu_plugin_mem_rw rw, void *data);
/* Not in versions before 5 */
void __attribute__((weak))
qemu_plugin_register_vcpu_discon_cb(qemu_plugin_id_t id,
				    enum qemu_plugin_discon_type type, void *cb,
				    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest,
			     size_t len);
bool qemu_plugin_write_memory_vaddr(uint64_t addr, GByteArray *data);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *score,
				  unsigned int vcpu);

EXPORT int qemu_plugin_version = 7;

/* The plugin */

/* nopl disp32(%rax,%rax,1), and the displacements of the benchmark */
static const uint8_t start_insn[] = {
	0x0f, 0x1f, 0x84, 0x00, 0x01, 0x53, 0x4f, 0x49
};
static const uint8_t stop_insn[] = {
	0x0f, 0x1f, 0x84, 0x00, 0x02, 0x53, 0x4f, 0x49
};

struct vcpu {
	uint64_t insns;
	uint64_t at_start;
	uint64_t result;
	/* Between the markers, and not in an interrupt */
	uint64_t active;
	/* In an interrupt that came between the markers */
	uint64_t interrupted;
	uint64_t at_interrupt;
	uint64_t resumes_at;
	uint64_t skipped;
	/* For writes=, open addressing by the address */
	struct write *writes;
};

struct write {
	uint64_t addr;
	uint64_t code;
};

#define MAX_WRITES 65536

/* A translation block, for the profile */
struct block {
	struct block *next;
	uint64_t addr;
	uint64_t insns;
	uint64_t times;
};

static struct qemu_plugin_scoreboard *vcpus;
static qemu_plugin_u64 insns, active, interrupted;
static const char *profile, *writes;
static struct block *blocks;
static uint64_t pairs;
static unsigned int processors;

static void on_start(unsigned int index, void *data)
{
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);

	if (index >= processors)
		processors = index + 1;
	vcpu->at_start = vcpu->insns;
	vcpu->skipped = 0;
	vcpu->interrupted = 0;
	vcpu->active = 1;
}

static void on_stop(unsigned int index, void *data)
{
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);

	vcpu->result = vcpu->insns - vcpu->at_start - vcpu->skipped;
	vcpu->active = 0;
	vcpu->interrupted = 0;
	/* Less is not even a system call: the benchmark calibrates itself. */
	if (vcpu->result > 100)
		__atomic_add_fetch(&pairs, 1, __ATOMIC_RELAXED);
}

static void on_load(unsigned int index, uint32_t info, uint64_t vaddr,
		    void *data)
{
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);
	GByteArray bytes = {
		.data = (uint8_t *)&vcpu->result,
		.len = sizeof(vcpu->result),
	};

	qemu_plugin_write_memory_vaddr(vaddr, &bytes);
}

static void on_block(unsigned int index, void *data)
{
	struct block *block = data;

	__atomic_add_fetch(&block->times, 1, __ATOMIC_RELAXED);
}

static void on_write(unsigned int index, uint32_t info, uint64_t vaddr,
		     void *data)
{
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);
	size_t i = (vaddr >> 3) % MAX_WRITES, probes;

	if (!vcpu->active || vaddr < 1ULL << 63)
		return;
	if (!vcpu->writes)
		vcpu->writes = calloc(MAX_WRITES, sizeof(*vcpu->writes));
	for (probes = 0; vcpu->writes && probes < MAX_WRITES; probes++) {
		struct write *write = &vcpu->writes[i];

		if (!write->addr) {
			write->addr = vaddr;
			write->code = (uintptr_t)data;
		}
		if (write->addr == vaddr)
			return;
		i = (i + 1) % MAX_WRITES;
	}
}

/*
 * Versions before 7 passed the plugin's id first and no data: five words in
 * both, and data of ours tells them apart.
 */
static void on_interrupt(uintptr_t first, uintptr_t second, uintptr_t third,
			 uintptr_t fourth, uintptr_t fifth)
{
	bool has_data = fifth == (uintptr_t)&vcpus;
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(
		vcpus, has_data ? first : second);

	if (!vcpu->active)
		return;
	vcpu->active = 0;
	vcpu->interrupted = 1;
	vcpu->at_interrupt = vcpu->insns;
	vcpu->resumes_at = has_data ? third : fourth;
}

/* A block starts in an interrupt: or is this where it came? */
static void on_resume(unsigned int index, void *data)
{
	struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);

	if ((uintptr_t)data != vcpu->resumes_at)
		return;
	vcpu->active = 1;
	vcpu->interrupted = 0;
	vcpu->skipped += vcpu->insns - vcpu->at_interrupt;
}

static void translate(struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	bool stopped = false;

	qemu_plugin_register_vcpu_tb_exec_cond_cb(
		tb, on_resume, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_COND_NE,
		interrupted, 0, (void *)(uintptr_t)qemu_plugin_tb_vaddr(tb));
	if (profile) {
		/* Blocks are few, and translated again only when flushed. */
		struct block *block = calloc(1, sizeof(*block));

		block->addr = qemu_plugin_tb_vaddr(tb);
		block->insns = n;
		block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
		while (!__atomic_compare_exchange_n(&blocks, &block->next,
						    block, false,
						    __ATOMIC_RELEASE,
						    __ATOMIC_RELAXED))
			;
		qemu_plugin_register_vcpu_tb_exec_cond_cb(
			tb, on_block, QEMU_PLUGIN_CB_NO_REGS,
			QEMU_PLUGIN_COND_NE, active, 0, block);
	}
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t bytes[sizeof(start_insn)];
		size_t len;

		if (stopped)
			qemu_plugin_register_vcpu_mem_cb(insn, on_load,
							 QEMU_PLUGIN_CB_NO_REGS,
							 QEMU_PLUGIN_MEM_R,
							 NULL);
		if (writes)
			qemu_plugin_register_vcpu_mem_cb(
				insn, on_write, QEMU_PLUGIN_CB_NO_REGS,
				QEMU_PLUGIN_MEM_W,
				(void *)(uintptr_t)qemu_plugin_insn_vaddr(insn));
		len = qemu_plugin_insn_data(insn, bytes, sizeof(bytes));
		stopped = len == sizeof(bytes) &&
			  !memcmp(bytes, stop_insn, sizeof(bytes));
		if (stopped)
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, on_stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
			insn, QEMU_PLUGIN_INLINE_ADD_U64, insns, 1);
		if (len == sizeof(bytes) &&
		    !memcmp(bytes, start_insn, sizeof(bytes)))
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, on_start, QEMU_PLUGIN_CB_NO_REGS, NULL);
	}
}

/*
 * Versions before 7 passed the plugin's id first and no data; both kinds fit
 * into two registers, and data of ours tells them apart.
 */
static void on_translation(uintptr_t first, uintptr_t second)
{
	uintptr_t data = (uintptr_t)&vcpus;

	translate((struct qemu_plugin_tb *)(second == data ? first : second));
}

static void write_profile(FILE *file)
{
	struct block *block;

	fprintf(file, "pairs %" PRIu64 "\n", pairs);
	for (block = blocks; block; block = block->next) {
		if (block->times)
			fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n",
				block->addr, block->insns, block->times);
	}
}

static void write_writes(FILE *file)
{
	unsigned int index;
	int i;

	for (index = 0; index < processors; index++) {
		struct vcpu *vcpu = qemu_plugin_scoreboard_find(vcpus, index);

		for (i = 0; vcpu->writes && i < MAX_WRITES; i++) {
			if (vcpu->writes[i].addr)
				fprintf(file, "%u %" PRIx64 " %" PRIx64 "\n",
					index, vcpu->writes[i].addr,
					vcpu->writes[i].code);
		}
	}
}

static void write_file(const char *name, void (*content)(FILE *file))
{
	FILE *file;

	if (!name)
		return;
	file = fopen(name, "w");
	if (!file) {
		perror(name);
		return;
	}
	content(file);
	fclose(file);
}

static void __attribute__((destructor)) write_files(void)
{
	write_file(profile, write_profile);
	write_file(writes, write_writes);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
			       const struct qemu_info *info, int argc,
			       char **argv)
{
	int i;

	for (i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "profile=", 8)) {
			profile = strdup(argv[i] + 8);
		} else if (!strncmp(argv[i], "writes=", 7)) {
			writes = strdup(argv[i] + 7);
		} else {
			fprintf(stderr, "insns: what is %s?\n", argv[i]);
			return -1;
		}
	}
	vcpus = qemu_plugin_scoreboard_new(sizeof(struct vcpu));
	insns = (qemu_plugin_u64){ vcpus, offsetof(struct vcpu, insns) };
	active = (qemu_plugin_u64){ vcpus, offsetof(struct vcpu, active) };
	interrupted = (qemu_plugin_u64){ vcpus,
					 offsetof(struct vcpu, interrupted) };
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, &vcpus);
	if (qemu_plugin_register_vcpu_discon_cb)
		qemu_plugin_register_vcpu_discon_cb(
			id, QEMU_PLUGIN_DISCON_INTERRUPT, on_interrupt, &vcpus);
	return 0;
}
