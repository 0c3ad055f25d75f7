// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plans of iommufd_model: the table of operations, plans made from a seed,
 * plans as text, and shortening
 */
#define _GNU_SOURCE
#include "iommufd_model.h"

/*
 * The number of operations that a worker chooses from in a round; few, so that
 * workers use the same objects
 */
#define THEME 5

#define IOAS_ARG "ioas:4 "
#define RANGE_ARGS "place:5 first:4 pages:4 "

const struct op ops[] = {
	{ "map", op_map, IOAS_ARG RANGE_ARGS "source:5 page:24", 6,
	  .structured = true },
	{ "map_any", op_map_any, "ioas:2 page:24", 2,
	  .without = PLAN_TYPE1 },
	{ "type1_map", op_type1_map, RANGE_ARGS "page:24", 6,
	  .needs = PLAN_TYPE1, .structured = true },
	{ "type1_unmap", op_type1_unmap, RANGE_ARGS "all:8", 8,
	  .needs = PLAN_TYPE1, .structured = true },
	{ "copy", op_copy, "from:4 place:5 to:4 to_place:5 first:4 pages:4", 6,
	  .structured = true },
	{ "long_copy", op_long_copy, "ioas:2 place:2", 4 },
	{ "long_unmap", op_long_unmap, "ioas:2 place:2", 4 },
	{ "unmap", op_unmap, IOAS_ARG RANGE_ARGS "how:8", 8,
	  .structured = true },
	{ "vanish", op_vanish, "page:24 pages:4 how:4", 2,
	  .without = PLAN_PROCESSES },
	{ "truncate", op_truncate, "page:24 how:3", 2 },
	{ "dmabuf", op_dmabuf, "slot:2 pages:4", 2,
	  .without = PLAN_PROCESSES },
	{ "revoke", op_revoke, "slot:2 revoked:2", 2, .structured = true },
	{ "pin", op_pin, "access:2 slot:3 place:5 first:4 pages:4 write:2", 6,
	  .structured = true },
	{ "rw", op_rw, "access:2 place:5 first:4 write:2 slow:2", 3,
	  .structured = true },
	{ "access", op_access, "access:2 ioas:4", 3, .structured = true },
	{ "new_access", op_new_access, "ioas:4 pin:2", 2,
	  .without = PLAN_PROCESSES, .structured = true, .undone = true },
	{ "track", op_track, "slot:3 enable:2", 2, .structured = true },
	{ "dirty", op_dirty, "slot:3 place:5 clear:2", 3,
	  .structured = true },
	{ "change_process", op_change_process, "", 2 },
	{ "ranges", op_ranges, IOAS_ARG, 1, .structured = true, .undone = true },
	{ "allow", op_allow, "slot:3 ranges:3", 1, .structured = true },
	{ "option", op_option, "slot:3 op:3", 1, .structured = true },
	{ "ioas", op_ioas, "slot:3", 3, .structured = true, .undone = true },
	{ "hwpt", op_hwpt, "slot:3 dev:3 ioas:4 flags:8", 5,
	  .structured = true, .undone = true },
	{ "nested", op_nested, "slot:3 dev:3 on:3 on_slot:3 fault:4 data:8", 6,
	  .structured = true, .undone = true },
	{ "viommu", op_viommu, "slot:3 dev:3 parent:3 data:2", 5,
	  .structured = true, .undone = true },
	{ "vdevice", op_vdevice, "slot:3 dev:3 viommu:3 number:2", 5,
	  .structured = true, .undone = true },
	{ "hw_queue", op_hw_queue, "slot:3 viommu:3 index:3 place:2", 5,
	  .structured = true, .undone = true },
	{ "fault_queue", op_fault_queue, "slot:3", 3,
	  .without = PLAN_PROCESSES, .structured = true, .undone = true },
	{ "veventq", op_veventq, "slot:3 viommu:3", 3,
	  .without = PLAN_PROCESSES, .structured = true, .undone = true },
	{ "destroy", op_destroy, "kind:9 slot:3", 10, .structured = true },
	{ "attach", op_attach, "dev:3 on:5 slot:3", 8, .structured = true },
	/*
	 * The mock driver cannot remove a device with a PASID attached. So
	 * these are for devices that stay, and all are detached before the end.
	 */
	{ "pasid_attach", op_pasid_attach, "dev:2 pasid:2 on:3 slot:3", 3,
	  .without = PLAN_KILLED, .structured = true },
	{ "pasid_replace", op_pasid_replace, "dev:2 pasid:2 on:3 slot:3", 3,
	  .without = PLAN_KILLED, .structured = true },
	{ "pasid_detach", op_pasid_detach, "dev:2 pasid:2", 2,
	  .without = PLAN_KILLED, .structured = true },
	{ "plug", op_plug, IOAS_ARG, 2, .structured = true },
	{ "unplug", op_unplug, "", 2 },
	{ "fault", op_fault, "dev:3 group:3 pasid:3", 4, .structured = true },
	{ "event", op_event, "dev:3", 4, .structured = true },
	{ "read_faults", op_read_faults, "slot:3 many:3 answer:4 poll:2", 4,
	  .without = PLAN_PROCESSES, .structured = true },
	{ "read_events", op_read_events, "slot:3 many:3 poll:2", 4,
	  .without = PLAN_PROCESSES, .structured = true },
	{ "mmap", op_mmap, "slot:3 touch:2", 2, .without = PLAN_PROCESSES },
	{ "invalidate", op_invalidate, "on:2 slot:3 many:3", 2,
	  .structured = true },
	{ "hw_info", op_hw_info, "dev:3 length:3", 2, .structured = true, .undone = true },
	{ "protect", op_protect, "worker:4 how:3", 2,
	  .without = PLAN_PROCESSES },
	{ "signal", op_signal, "worker:4", 1 },
	{ "fork", op_fork, "", 1, .without = PLAN_PROCESSES },
	/* A killed worker cannot report success. */
	{ "exit", op_exit, "", 1, .needs = PLAN_PROCESSES, .may_fail = true },
	{ "kill", op_kill, "worker:4", 1, .needs = PLAN_PROCESSES,
	  .may_fail = true },
};

const unsigned int nr_ops = ARRAY_SIZE(ops);

static const char *const how_names[HOWS] = { "plain", "sealed", "torn", "split" };

static const char *const invariant_names[] = {
	[HOLDS] = "all holds",
	[ANSWER] = "a call gives an answer that the model explains",
	[BUSY] = "EBUSY if and only if something depends on it",
	[UNMAPPED] = "what is unmapped is what was mapped",
	[CONTENT] = "a device sees what the memory holds",
	[DESTROYED] = "everything can be destroyed",
	[PINS] = "nothing stays pinned",
	[SILENT] = "the kernel's log is silent",
	[FLAT] = "memory is flat",
	[TIME] = "no call takes longer than its bound",
	[ENDS] = "the episode ends",
};

/* ---- making -------------------------------------------------------------- */

/* The next "name:limit" of SPEC; false: there is none. */
static bool next_arg(const char **spec, int *length, unsigned int *limit)
{
	const char *from = *spec + strspn(*spec, " "), *colon;
	char *end;

	colon = strchr(from, ':');
	if (!colon)
		return false;
	*length = colon - from;
	*limit = strtoul(colon + 1, &end, 10);
	*spec = end;
	return true;
}

static bool fits(unsigned int op, u32 flags)
{
	return (!ops[op].needs || ops[op].needs & flags) &&
	       !(ops[op].without & flags);
}

static unsigned int some_op(u64 *rng, u32 flags)
{
	unsigned int i, all = 0, n;

	for (i = 0; i < nr_ops; i++)
		all += ops[i].weight;
	for (;;) {
		n = below(rng, all);
		for (i = 0; n >= ops[i].weight; i++)
			n -= ops[i].weight;
		if (fits(i, flags))
			return i;
	}
}

/*
 * A round can have a focus: one object that is created and destroyed, and that
 * other calls name. The operation that creates it comes first.
 */
#define FOCUS_OPS 6

/* Or areas that are equal, short or long, or automatic HWPTs */
#define AREAS KINDS
#define LONG_AREAS (KINDS + 1)
#define AUTOMATIC (KINDS + 2)
#define NO_FOCUS (KINDS + 3)
/* More frequent than others, as the race needs three of them at a time. */
#define AUTOMATIC_TOO 3

static int (* const focus_ops[NO_FOCUS][FOCUS_OPS])(const u8 *, enum how) = {
	[NESTED] = { op_nested, op_attach, op_invalidate, op_fault },
	[VDEVICE] = { op_vdevice, op_event, op_attach, op_plug, op_unplug },
	[HW_QUEUE] = { op_hw_queue, op_unmap, op_viommu },
	[VEVENTQ] = { op_veventq, op_event, op_read_events },
	[VIOMMU] = { op_viommu, op_vdevice, op_hw_queue, op_veventq, op_nested,
		     op_mmap },
	[FAULT] = { op_fault_queue, op_nested, op_fault, op_read_faults,
		    op_attach },
	[PARENT] = { op_hwpt, op_nested, op_viommu, op_attach },
	[HWPT] = { op_hwpt, op_attach, op_pasid_attach, op_pasid_replace,
		   op_dirty, op_track },
	[IOAS] = { op_ioas, op_hwpt, op_attach, op_access, op_plug, op_map },
	[AREAS] = { op_copy, op_map, op_unmap, op_pin, op_type1_unmap,
		    op_attach },
	[LONG_AREAS] = { op_long_copy, op_long_unmap, op_attach, op_hwpt,
			 op_destroy },
	/*
	 * A new IOAS to which no device is attached again must not stay busy.
	 */
	[AUTOMATIC] = { op_attach, op_nested, op_nested, op_ioas, op_destroy },
};

static unsigned int op_of(int (*run)(const u8 *, enum how))
{
	unsigned int i;

	for (i = 0; i < nr_ops && ops[i].run != run; i++)
		;
	return i;
}

/* Operation NUMBER of a theme; UNDONE: one that only fails */
static unsigned int focus_op(u64 *rng, unsigned int kind,
			     unsigned int number, u32 flags, bool undone)
{
	unsigned int n = 0, i, op;

	while (n < FOCUS_OPS && focus_ops[kind][n])
		n++;
	for (i = 0; undone && i < 20; i++) {
		op = op_of(focus_ops[kind][below(rng, n)]);
		if (ops[op].undone && fits(op, flags))
			return op;
	}
	op = number == 0 && kind < AREAS ? op_of(op_destroy) :
	     number == 0 && kind == AREAS ? op_of(op_unmap) :
	     op_of(focus_ops[kind][number == 1 ? 0 : below(rng, n)]);
	return fits(op, flags) && !undone ? op : some_op(rng, flags);
}

/* An argument that names the object of the round */
static u8 focus_arg(unsigned int kind, const char *name, int length,
		    unsigned int limit, u8 value)
{
	static const char *const slots[] = {
		"slot", "on_slot", "viommu", "parent", "fault",
	};
	unsigned int i;

	if (kind == AREAS)
		return !strncmp(name, "pages", length) ? AREA_PAGES - 1 :
		       !strncmp(name, "first", length) ||
		       !strncmp(name, "place", length) ||
		       !strncmp(name, "to_place", length) ||
		       !strncmp(name, "page", length) ? 0 :
		       !strncmp(name, "from", length) ||
		       !strncmp(name, "to", length) ||
		       !strncmp(name, "ioas", length) ? value % STAYING : value;
	for (i = 0; i < ARRAY_SIZE(slots); i++)
		if (strlen(slots[i]) == length &&
		    !strncmp(slots[i], name, length))
			return 0;
	/* For op_attach() an IOAS, for op_nested() its automatic HWPT */
	if (kind == AUTOMATIC && !strncmp(name, "on", length))
		return limit == 3 ? 2 : value % 2 ? 4 : 0;
	if (kind == AUTOMATIC && !strncmp(name, "dev", length))
		return 0;
	if (kind == LONG_AREAS)
		return value;
	if (kind == AUTOMATIC)
		kind = IOAS;
	if (!strncmp(name, "kind", length))
		return kind;
	if (kind == IOAS && !strncmp(name, "ioas", length))
		return STAYING;
	if (kind == PARENT && !strncmp(name, "flags", length))
		return 1;
	return value;
}

static void make_step(u64 *rng, struct step *step, unsigned int focus,
		      bool all_sealed)
{
	const struct op *op = &ops[step->op];
	const char *spec = op->args, *name;
	unsigned int limit, i;
	int length;

	for (i = 0; ; i++) {
		name = spec + strspn(spec, " ");
		if (!next_arg(&spec, &length, &limit))
			break;
		step->arg[i] = below(rng, limit);
		if (focus < NO_FOCUS && below(rng, 6))
			step->arg[i] = focus_arg(focus, name, length, limit,
						 step->arg[i]);
	}
	step->nap = below(rng, 3) ? 0 : below(rng, 40);
	if (op->structured && (all_sealed || below(rng, 5) == 0))
		step->how = all_sealed ? SEALED : 1 + below(rng, HOWS - 1);
}

/* Places in the driver that few calls come to, and what leads there */
static const struct {
	const char *place;
	unsigned int focus;
} rare_delays[] = {
	{ "accessed", AREAS },
	{ "event_taken", VEVENTQ },
	{ FAULT_TAKEN, FAULT },
};

/*
 * With a focus, one worker can create and destroy the object, while all others
 * make calls that fail to depend on it: EBUSY is wrong then.
 */
static void make_round(struct plan *plan, u64 *rng, unsigned int round)
{
	unsigned int focus = below(rng, 2) ?
			     below(rng, NO_FOCUS + AUTOMATIC_TOO) : NO_FOCUS;
	bool strict = focus < AREAS && below(rng, 2), all_sealed;
	unsigned int worker, i, theme[THEME];

	for (i = 0; i < ARRAY_SIZE(rare_delays); i++)
		if (!strcmp(plan->delay, rare_delays[i].place)) {
			focus = rare_delays[i].focus;
			strict = false;
		}
	if (focus > NO_FOCUS)
		focus = AUTOMATIC;
	for (worker = 0; worker < plan->nr_workers; worker++) {
		/* Calls that only fail must not be visible to others. */
		all_sealed = strict ? worker : below(rng, 6) == 0;
		for (i = 0; i < THEME; i++)
			theme[i] = focus == NO_FOCUS ?
				   some_op(rng, plan->flags) :
				   focus_op(rng, focus, strict ? i % 2 : i,
					    plan->flags, strict && worker);
		for (i = 0; i < WORKER_STEPS; i++) {
			struct step *step = &plan->steps[plan->nr_steps++];

			step->round = round;
			step->worker = worker;
			step->op = theme[below(rng, THEME)];
			make_step(rng, step, focus, all_sealed);
		}
	}
}

void make_plan(struct plan *plan, u64 seed)
{
	unsigned int round;
	u64 rng = seed;

	memset(plan, 0, sizeof(*plan));
	plan->seed = seed;
	plan->flags = (below(&rng, 3) ? 0 : PLAN_TYPE1) |
		      (below(&rng, 3) ? 0 : PLAN_MM) |
		      (below(&rng, 4) ? 0 : PLAN_ROOT) |
		      (below(&rng, 4) ? 0 : PLAN_FIFO) |
		      (below(&rng, 3) ? 0 : PLAN_PASID) |
		      (below(&rng, 3) ? PLAN_NESTED : 0);
	if (below(&rng, 4) == 0)
		plan->flags = (plan->flags & ~PLAN_TYPE1) | PLAN_FILES;
	if (below(&rng, 6) == 0)
		plan->flags |= PLAN_PROCESSES;
	/* Every eighth, so that there is one */
	if (seed % 8 == 0) {
		plan->flags |= PLAN_KILLED;
		plan->kill_us = below(&rng, 20000);
	}
	/* In the order of the places, so that each has its turn */
	if (nr_delays && seed % 3) {
		snprintf(plan->delay, sizeof(plan->delay), "%s",
			 delays[seed / 3 % nr_delays]);
		plan->delay_us = 20 << below(&rng, 6);
		if (!strcmp(plan->delay, "event_taken"))
			plan->flags = (plan->flags | PLAN_NESTED) &
				      ~PLAN_PROCESSES;
		if (!strcmp(plan->delay, FAULT_TAKEN))
			plan->flags &= ~PLAN_PROCESSES;
	}
	plan->nr_workers = 2 + below(&rng, WORKERS_MAX - 1);
	plan->nr_rounds = 2 + below(&rng, ROUNDS_MAX - 1);
	for (round = 0; round < plan->nr_rounds; round++)
		make_round(plan, &rng, round);
}

/* ---- text ---------------------------------------------------------------- */

static void print_step(const struct step *step, const struct result *result)
{
	const struct op *op = &ops[step->op];
	const char *spec = op->args, *name;
	unsigned int limit, i;
	char text[160];
	int length, used;

	used = snprintf(text, sizeof(text), "round %u, worker %u: %s",
			step->round, step->worker, op->name);
	for (i = 0; ; i++) {
		name = spec + strspn(spec, " ");
		if (!next_arg(&spec, &length, &limit))
			break;
		used += snprintf(text + used, sizeof(text) - used,
				 " %.*s=%u", length, name, step->arg[i]);
	}
	ksft_print_msg("  %s%s%s: %s\n", text, step->how ? ", " : "",
		       step->how ? how_names[step->how] : "",
		       !result->when ? "(not done)" :
		       result->rc < 0 ? strerror(-result->rc) : "ok");
}

/* In the order in which they ended; then in the format of -p */
void print_plan(const struct plan *plan, const struct result *results)
{
	u32 i, when, last = 0;
	int length;
	unsigned int j, limit;

	for (i = 0; i < plan->nr_steps; i++)
		if (results[i].when > last)
			last = results[i].when;
	for (when = 1; when <= last; when++)
		for (i = 0; i < plan->nr_steps; i++)
			if (results[i].when == when)
				print_step(&plan->steps[i], &results[i]);
	for (i = 0; i < plan->nr_steps; i++)
		if (!results[i].when)
			print_step(&plan->steps[i], &results[i]);
	ksft_print_msg("again: iommufd_model -p ");
	printf("%u/%u/%u", plan->flags, plan->nr_workers, plan->kill_us);
	if (plan->delay_us)
		printf("/%s/%u", plan->delay, plan->delay_us);
	for (i = 0; i < plan->nr_steps; i++) {
		const struct step *step = &plan->steps[i];
		const char *spec = ops[step->op].args;

		printf(",%u.%u.%s.%u.%u", step->round, step->worker,
		       ops[step->op].name, step->how, step->nap);
		for (j = 0; next_arg(&spec, &length, &limit); j++)
			printf(".%u", step->arg[j]);
	}
	printf("\n");
}

static bool read_step(struct step *step, const char *text)
{
	unsigned int round, worker, how, nap, i, limit, value;
	const char *spec;
	char name[24];
	int used, length;

	if (sscanf(text, "%u.%u.%23[a-z0-9_].%u.%u%n", &round, &worker, name,
		   &how, &nap, &used) != 5)
		return false;
	for (i = 0; i < nr_ops && strcmp(ops[i].name, name); i++)
		;
	if (i == nr_ops || round >= ROUNDS_MAX || worker >= WORKERS_MAX ||
	    how >= HOWS)
		return false;
	*step = (struct step){ round, worker, i, how, .nap = nap };
	spec = ops[i].args;
	for (i = 0; next_arg(&spec, &length, &limit); i++) {
		text += used;
		if (sscanf(text, ".%u%n", &value, &used) != 1 ||
		    value >= limit)
			return false;
		step->arg[i] = value;
	}
	return true;
}

bool read_plan(struct plan *plan, const char *text)
{
	int n;

	memset(plan, 0, sizeof(*plan));
	n = sscanf(text, "%u/%u/%u/%23[a-z_]/%u", &plan->flags,
		   &plan->nr_workers, &plan->kill_us, plan->delay,
		   &plan->delay_us);
	if ((n != 3 && n != 5) || !plan->nr_workers ||
	    plan->nr_workers > WORKERS_MAX)
		return false;
	while ((text = strchr(text, ','))) {
		struct step *step = &plan->steps[plan->nr_steps++];

		if (plan->nr_steps > STEPS_MAX || !read_step(step, ++text) ||
		    step->worker >= plan->nr_workers)
			return false;
		if (step->round >= plan->nr_rounds)
			plan->nr_rounds = step->round + 1;
	}
	return true;
}

/*
 * ---- shortening -----------------------------------------------------------
 */

static struct {
	enum invariant broken;
	unsigned int tries, runs;
	u64 end;
	/* The last failure */
	struct report report;
} hunt;

/* Does PLAN fail in the same way, in one of several tries? */
static bool still_fails(const struct plan *plan)
{
	unsigned int i;

	for (i = 0; i < hunt.tries && now_ns() < hunt.end; i++) {
		hunt.runs++;
		if (run_plan(plan) || report->broken != hunt.broken)
			continue;
		hunt.report = *report;
		return true;
	}
	return false;
}

/* Use TRIAL if it fails, too. */
static bool improve(struct plan *plan, const struct plan *trial)
{
	if (!still_fails(trial))
		return false;
	*plan = *trial;
	return true;
}

static void drop_steps(struct plan *plan, u32 first, u32 n)
{
	memmove(&plan->steps[first], &plan->steps[first + n],
		(plan->nr_steps - first - n) * sizeof(plan->steps[0]));
	plan->nr_steps -= n;
}

/* Without the rounds before FIRST and after LAST */
static void keep_rounds(struct plan *plan, unsigned int first,
			unsigned int last)
{
	u32 i;

	for (i = plan->nr_steps; i-- > 0; ) {
		struct step *step = &plan->steps[i];

		if (step->round < first || step->round > last)
			drop_steps(plan, i, 1);
		else
			step->round -= first;
	}
	plan->nr_rounds = last - first + 1;
}

/* That round only, repeated */
static void repeat_round(struct plan *plan, unsigned int round)
{
	u32 i, n;

	keep_rounds(plan, round, round);
	n = plan->nr_steps;
	while (n && plan->nr_steps + n <= STEPS_MAX &&
	       plan->nr_rounds < ROUNDS_MAX) {
		for (i = 0; i < n; i++) {
			struct step *step = &plan->steps[plan->nr_steps++];

			*step = plan->steps[i];
			step->round = plan->nr_rounds;
		}
		plan->nr_rounds++;
	}
}

/* One worker makes the calls in the order in which they ended: no race? */
static void one_by_one(struct plan *plan)
{
	struct plan old = *plan;
	u32 i, when, n = 0;

	for (when = 1; when <= hunt.report.completed; when++)
		for (i = 0; i < old.nr_steps; i++)
			if (hunt.report.results[i].when == when) {
				plan->steps[n] = old.steps[i];
				plan->steps[n++].worker = 0;
			}
	plan->nr_steps = n;
	plan->nr_workers = 1;
}

static void without_worker(struct plan *plan, unsigned int worker)
{
	u32 i;

	for (i = plan->nr_steps; i-- > 0; ) {
		struct step *step = &plan->steps[i];

		if (step->worker == worker)
			drop_steps(plan, i, 1);
		else if (step->worker > worker)
			step->worker--;
	}
	plan->nr_workers--;
}

static void drop_what_can_go(struct plan *plan)
{
	u32 size = plan->nr_steps / 2, at;
	struct plan trial;

	for (; size; size /= 2)
		for (at = 0; at + size <= plan->nr_steps; ) {
			trial = *plan;
			drop_steps(&trial, at, size);
			if (!improve(plan, &trial))
				at += size;
		}
}

static void simplify(struct plan *plan)
{
	struct plan trial;
	u32 i;

	for (i = 0; i < plan->nr_steps; i++) {
		struct step *step = &trial.steps[i];

		trial = *plan;
		step->nap = 0;
		step->how = PLAIN;
		if (memcmp(&trial, plan, sizeof(trial)) &&
		    improve(plan, &trial))
			continue;
		trial = *plan;
		step->nap = 0;
		if (memcmp(&trial, plan, sizeof(trial)))
			improve(plan, &trial);
	}
}

void shrink(struct plan *plan, double seconds)
{
	struct report first = *report;
	struct plan trial, all = *plan;
	unsigned int i;
	u32 flag;

	hunt.broken = report->broken;
	hunt.report = *report;
	hunt.runs = 0;
	ksft_print_msg("not so that %s: %s\n", invariant_names[report->broken],
		       report->text);
	if (plan->seed)
		ksft_print_msg("seed %lu, round %u of %u; again: iommufd_model -1 -s %lu\n",
			       plan->seed, report->round, plan->nr_rounds,
			       plan->seed);
	/* How often does it fail? */
	hunt.end = now_ns() + seconds * 0.3e9;
	hunt.tries = ~0U;
	if (!still_fails(plan)) {
		repeat_round(plan, first.round < plan->nr_rounds ?
			     first.round : plan->nr_rounds - 1);
		hunt.end = now_ns() + seconds * 0.3e9;
		if (!still_fails(plan)) {
			ksft_print_msg("it did not come again in %u tries\n",
				       hunt.runs);
			print_plan(&all, first.results);
			*report = first;
			return;
		}
	}
	hunt.tries = 3 * hunt.runs + 2;
	hunt.end = now_ns() + seconds * 1e9;
	/* It is found after the round in which it happened. */
	for (i = plan->nr_rounds; i-- > 0; ) {
		unsigned int last = hunt.report.round;

		if (last >= plan->nr_rounds)
			last = plan->nr_rounds - 1;
		if (i > last)
			continue;
		trial = *plan;
		keep_rounds(&trial, i, last);
		if (trial.nr_steps < plan->nr_steps && improve(plan, &trial))
			break;
	}
	trial = *plan;
	one_by_one(&trial);
	improve(plan, &trial);
	for (i = plan->nr_workers; i-- > 0 && plan->nr_workers > 1; ) {
		trial = *plan;
		without_worker(&trial, i);
		improve(plan, &trial);
	}
	drop_what_can_go(plan);
	for (flag = 1; flag < PLAN_FLAGS; flag <<= 1) {
		trial = *plan;
		trial.flags &= ~flag;
		if (trial.flags != plan->flags && flag != PLAN_TYPE1)
			improve(plan, &trial);
	}
	trial = *plan;
	trial.delay_us = 0;
	if (plan->delay_us)
		improve(plan, &trial);
	simplify(plan);
	ksft_print_msg("%u steps are left of %u, after %u runs: %s\n",
		       plan->nr_steps, all.nr_steps, hunt.runs,
		       hunt.report.text);
	print_plan(plan, hunt.report.results);
	*report = hunt.report;
}
