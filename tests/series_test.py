#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of scripts/series: what an item of text is, and where an insertion goes. `scripts/series check` runs them first."""

import importlib.util
import sys
import textwrap
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path

sys.dont_write_bytecode = True
path = Path(__file__).resolve().parent.parent / "scripts/series"
loader = SourceFileLoader("series", str(path))
series = importlib.util.module_from_spec(importlib.util.spec_from_loader("series", loader))
loader.exec_module(series)


def text(words):
    return textwrap.dedent(words).lstrip("\n")


def without(name, words, *lines):
    """WORDS without the items of the lines that contain one of LINES."""
    items = series.Items(name, text(words))
    drop = set()
    for i, line in enumerate(items.lines):
        if any(l in line for l in lines):
            first, last = items.span(i)
            drop |= set(range(first, last + 1))
    assert drop, lines
    return items.without(drop)


class Item(unittest.TestCase):
    maxDiff = None

    def test_line_of_rust(self):
        self.assertEqual(without("a.rs", """
            mod a;
            #[cfg(CONFIG_B)]
            mod b;
            mod c;
            """, "mod b;"), text("""
            mod a;
            mod c;
            """))

    def test_function_with_its_documentation(self):
        self.assertEqual(without("a.rs", """
            fn a() {
                ('{', "}", /* } */ 'a: loop {}) // }
            }

            /// Does b.
            #[inline]
            pub(crate) fn b<'a>(
                x: &'a str,
            ) -> Result
            where
                Self: Sized,
            {
                if x == "{" {
                    return;
                }
            }

            fn c() {}
            """, "fn b"), text("""
            fn a() {
                ('{', "}", /* } */ 'a: loop {}) // }
            }

            fn c() {}
            """))

    def test_row_of_a_table(self):
        self.assertEqual(without("a.rs", """
            commands! {
                IOMMU_DESTROY(iommu_destroy, id) => object::destroy,
                IOMMU_IOAS_ALLOC(iommu_ioas_alloc, out_ioas_id) =>
                    ioas::alloc,
                IOMMU_OPTION(iommu_option, val64) => option,
            }
            """, "IOMMU_IOAS_ALLOC"), text("""
            commands! {
                IOMMU_DESTROY(iommu_destroy, id) => object::destroy,
                IOMMU_OPTION(iommu_option, val64) => option,
            }
            """))

    def test_last_element_leaves_no_blank_line(self):
        self.assertEqual(without("a.rs", """
            enum Kind {
                A,

                /// B.
                B { x: u32 },
            }
            """, "B {"), text("""
            enum Kind {
                A,
            }
            """))

    def test_last_item_of_a_block(self):
        self.assertEqual(without("a.rs", """
            impl A for B {
                /// C.
                fn c() {}
            }
            """, "fn c"), text("""
            impl A for B {}
            """))

    def test_end_of_a_vertical_list(self):
        self.assertEqual(without("a.rs", """
            use crate::{
                context::Context,
                ioas,
                object, //
            };
            """, "ioas,", "object,"), text("""
            use crate::{
                context::Context, //
            };
            """))

    def test_function_of_c(self):
        self.assertEqual(without("shim.c", """
            int a(void);

            /*
             * What b is: { is no bracket.
             */
            int b(struct x *x,
                  int y)
            {
            	return '}';
            }
            EXPORT_SYMBOL_GPL(b);

            int c(void);
            """, "int b(", "(b)"), text("""
            int a(void);

            int c(void);
            """))

    def test_condition_of_c(self):
        self.assertEqual(without("shim.h", """
            int a;

            #ifdef CONFIG_B
            #if C
            int b;
            #endif
            #else
            int d;
            #endif

            int e;
            """, "#ifdef CONFIG_B"), text("""
            int a;

            int e;
            """))

    def test_struct_field(self):
        self.assertEqual(without("a.h", """
            struct a {
            	int a;
            	/* Which b? */
            	int b;
            };
            """, "int b"), text("""
            struct a {
            	int a;
            };
            """))

    def test_makefile(self):
        self.assertEqual(without("Makefile", """
            iommufd-y := main.o \\
            	shim.o
            # only for tests
            iommufd-$(CONFIG_TEST) += \\
            	selftest.o
            obj-y += iommufd.o
            """, "CONFIG_TEST"), text("""
            iommufd-y := main.o \\
            	shim.o
            obj-y += iommufd.o
            """))

    def test_kconfig_entry(self):
        self.assertEqual(without("Kconfig", """
            config A
            	bool "a"

            config B
            	bool "b"
            	help
            	  Two paragraphs.

            	  Of help.

            config C
            	bool "c"
            """, "config B"), text("""
            config A
            	bool "a"

            config C
            	bool "c"
            """))

    def test_raw_strings_and_lifetimes(self):
        code = series.code_only("""a("(", r#"{"(["#, b'{', '\\'', '\\u{7f}', &'static str, 'x) // {\n/* [\n[ */}""")
        self.assertEqual([c for c in code if c in "([{}])"], ["(", ")", "}"])
        self.assertEqual(code.count("\n"), 2)


class Insertion(unittest.TestCase):
    def test_not_into_a_condition(self):
        self.assertEqual(series.insert_sorted("h.c", text("""
            #include "a.c"
            #ifdef CONFIG_D
            #include "d.c"
            #endif
            #include "x.c"
            """), '#include "e.c"'), text("""
            #include "a.c"
            #include "e.c"
            #ifdef CONFIG_D
            #include "d.c"
            #endif
            #include "x.c"
            """))

    def test_not_into_another_paragraph(self):
        self.assertEqual(series.insert_sorted("h.h", text("""
            #include <linux/z.h>

            #include <linux/a.h>
            #include <linux/c.h>

            #include <../private.h>
            """), "#include <linux/b.h>"), text("""
            #include <linux/z.h>

            #include <linux/a.h>
            #include <linux/b.h>
            #include <linux/c.h>

            #include <../private.h>
            """))

    def test_modules_with_conditions(self):
        self.assertEqual(series.insert_sorted("lib.rs", text("""
            //! Docs.

            pub mod alloc;
            #[cfg(CONFIG_B)]
            pub mod b;
            mod d;
            """), "#[cfg(CONFIG_A)]\npub mod a;\npub(crate) mod c;"), text("""
            //! Docs.

            #[cfg(CONFIG_A)]
            pub mod a;
            pub mod alloc;
            #[cfg(CONFIG_B)]
            pub mod b;
            pub(crate) mod c;
            mod d;
            """))

    def test_twice(self):
        with self.assertRaises(series.Problem):
            series.insert_sorted("lib.rs", "mod a;\nmod b;\n", "pub mod b;")

    def test_strays_do_not_matter(self):
        self.assertEqual(series.best_rank(["a", "z", "b", "c", "e", "f"], "d"), 4)
        self.assertEqual(series.best_rank(["b"], "a"), 0)
        self.assertEqual(series.best_rank(["b"], "c"), 1)

    def test_anchor_must_be_one(self):
        for anchor in ("^x", "^a"):
            with self.assertRaises(series.Problem):
                series.insert_at("f", "a\na\n", {"after": anchor, "text": "b"}, "t")

    def test_maintainers(self):
        before = "Head\n\nARM\nM:\tx\n\nZORRO\nM:\tx\n\nIOMMUFD\nM:\tx\n\nIOSYS\nM:\tx\n\nTHE REST\nM:\ty\n"
        after = series.with_entries(before, [("IOMMUFD [RUST]", ["S:\tMaintained", "F:\ta/"])])
        self.assertEqual(after, before.replace("IOSYS", "IOMMUFD [RUST]\nS:\tMaintained\nF:\ta/\n\nIOSYS"))


class Mailbox(unittest.TestCase):
    def test_a_header_is_one_line(self):
        class Told:
            date = 0

        mail = b"From 0000 Mon Sep 17 00:00:00 2001\nSubject: [PATCH 1/1] rust: a\n b\n c\nX: y\n\nText\n of it\nFrom here\n---\n"
        box = series.as_mbox(Told, {series.COVER: mail, "0001-a.patch": mail}).decode()
        self.assertEqual(box.count("\nSubject: [PATCH 1/1] rust: a b c\nX: y\n\nText\n of it\n>From here\n---\n"), 2)
        self.assertEqual(len(set(series.re.findall(r"^Message-ID: (.*)$", box, series.re.M))), 2)
        self.assertEqual(box.count("\nIn-Reply-To: "), 1)


class Paths(unittest.TestCase):
    def test_globs(self):
        self.assertTrue(series.matches("a/**", "a/b/c.rs"))
        self.assertTrue(series.matches("a/**/c.rs", "a/c.rs"))
        self.assertTrue(series.matches("a/*.rs", "a/c.rs"))
        self.assertFalse(series.matches("a/*.rs", "a/b/c.rs"))

    def test_maintainers_patterns(self):
        self.assertTrue(series.covers("a/b/", "a/b/c/d"))
        self.assertFalse(series.covers("a/*.c", "a/b/c.c"))

    def test_maintainers_of_a_directory_in_parts(self):
        ours = ["a/Makefile", "a/b/x.rs", "a/b/y.rs", "a/c/x.rs", "ab/z.rs"]
        self.assertEqual(series.named_so_far("a/", ours, {"a/Makefile", "a/b/x.rs", "a/c/x.rs"}),
                         ["a/Makefile", "a/b/x.rs", "a/c/"])
        self.assertEqual(series.named_so_far("a/", ours, set(ours)), ["a/"])
        self.assertEqual(series.named_so_far("a/", ours, {"ab/z.rs"}), [])
        self.assertEqual(series.named_so_far("none/", ours, set(ours)), ["none/"])


if __name__ == "__main__":
    unittest.main()
