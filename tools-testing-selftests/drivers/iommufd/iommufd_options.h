/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Command lines of the tests: a table of options, from which the usage is
 * printed as well
 */
#ifndef __IOMMUFD_OPTIONS_H
#define __IOMMUFD_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_option {
	char letter;
	/* Name of the argument; NULL for a flag */
	const char *argument;
	/* The variable that it sets, one of these */
	bool *flag;
	unsigned int *number;
	unsigned long *number64;
	double *seconds;
	const char **text;
	/* Called each time it is given */
	void (*add)(const char *text);
	const char *help;
};

static inline void print_options(FILE *out, const char *program,
				 const char *arguments,
				 const struct test_option *options, size_t n)
{
	char left[32];
	size_t i;

	fprintf(out, "usage: %s [options]%s%s\n\n", program,
		*arguments ? " " : "", arguments);
	for (i = 0; i < n; i++) {
		const struct test_option *o = &options[i];

		snprintf(left, sizeof(left), "-%c %s", o->letter,
			 o->argument ?: "");
		fprintf(out, "  %-11s %s", left, o->help);
		if (o->number)
			fprintf(out, " (%u)", *o->number);
		if (o->number64)
			fprintf(out, " (%lu)", *o->number64);
		if (o->seconds)
			fprintf(out, " (%g)", *o->seconds);
		fputc('\n', out);
	}
}

static inline bool set_option(const struct test_option *o, const char *text)
{
	char *end = "";

	if (o->flag)
		*o->flag = true;
	if (o->number)
		*o->number = strtoul(text, &end, 0);
	if (o->number64)
		*o->number64 = strtoul(text, &end, 0);
	if (o->seconds)
		*o->seconds = strtod(text, &end);
	if (o->text)
		*o->text = text;
	if (o->add)
		o->add(text);
	return !*end;
}

/*
 * Returns the index of the first argument that is not an option. Exits with
 * status 2 on an error, with 0 on -h.
 */
static inline int parse_options(int argc, char **argv, const char *arguments,
				const struct test_option *options, size_t n)
{
	char letters[64] = "h";
	size_t i, used = 1;
	int letter;

	for (i = 0; i < n && used < sizeof(letters) - 3; i++) {
		letters[used++] = options[i].letter;
		if (options[i].argument)
			letters[used++] = ':';
	}
	while ((letter = getopt(argc, argv, letters)) != -1) {
		for (i = 0; i < n && options[i].letter != letter; i++)
			;
		if (i < n && set_option(&options[i], optarg))
			continue;
		print_options(letter == 'h' ? stdout : stderr, argv[0],
			      arguments, options, n);
		exit(letter == 'h' ? 0 : 2);
	}
	return optind;
}

#endif
