#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of scripts/series: parts, notes, mails and paths. `scripts/series check` runs them first. tests/contributor tries its
commands."""

import re
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts/series.d"))

import history
import proof


class Parts(unittest.TestCase):
    def of(self, *parts):
        told = history.Series.__new__(history.Series)
        told.parts, told.alone = parts, []
        return told

    def test_each_ends_before_the_next(self):
        told = self.of(("one", "a"), ("two", "b"), ("three", "d"))
        self.assertEqual(told.ranges(["a", "b", "c", "d"]), [("one", 1, 1), ("two", 2, 3), ("three", 4, 4)])

    def test_a_first_patch_must_be_there_once(self):
        for subjects in (["a", "c"], ["a", "b", "b"]):
            with self.assertRaises(history.Problem):
                self.of(("one", "a"), ("two", "b")).ranges(subjects)

    def test_they_are_in_order_and_no_patch_is_before_them(self):
        for subjects in (["b", "a"], ["x", "a", "b"]):
            with self.assertRaises(history.Problem):
                self.of(("one", "a"), ("two", "b")).ranges(subjects)


class Notes(unittest.TestCase):
    MAIL = b"Subject: x\n\nWhy.\n---\n%s a/b.rs | 2 +-\n 1 file changed\n\ndiff --git a/a/b.rs b/a/b.rs\n"

    def test_what_is_below_the_dashes(self):
        self.assertEqual(history.note_of(self.MAIL % b"\nNotes:\n    Changes in v2:\n    \n     - one\n\n"), "Changes in v2:\n\n - one")

    def test_a_mail_without(self):
        self.assertIsNone(history.note_of(self.MAIL % b""))


class Mails(unittest.TestCase):
    def test_a_header_is_one_line(self):
        mail = b"From 0000 Mon Sep 17 00:00:00 2001\nSubject: [PATCH 1/1] rust: a\n b\n c\nX: y\n\nText\n of it\nFrom here\n---\n"
        box = history.as_mbox({history.COVER: mail, "0001-a.patch": mail}).decode()
        self.assertEqual(box.count("\nSubject: [PATCH 1/1] rust: a b c\nX: y\n\nText\n of it\n>From here\n---\n"), 2)
        self.assertEqual(len(set(re.findall(r"^Message-ID: (.*)$", box, re.M))), 2)
        self.assertEqual(box.count("\nIn-Reply-To: "), 1)

    def test_the_number_of_a_patch_is_not_part_of_it(self):
        self.assertEqual(history.unnumbered(b"Subject: [RFC PATCH v2  7/96] a\n"), history.unnumbered(b"Subject: [RFC PATCH v2 12/97] a\n"))

    def test_another_base_makes_no_other_patch(self):
        mails = [b"index 12ab..34cd 100644\n@@ -%d,2 +%d,3 @@ fn x\n+y\nbase-commit: %s\n" % m for m in ((1, 1, b"aa"), (7, 9, b"bb"))]
        self.assertEqual(*map(history.normal, mails))


class Paths(unittest.TestCase):
    def test_there_and_back(self):
        for ours, theirs in (("rust-kernel/kernel/mm/gup.rs", "rust/kernel/mm/gup.rs"),
                             ("tools-testing-selftests/iommu/x.c", "tools/testing/selftests/iommu/x.c")):
            self.assertEqual(history.kernel_path(ours), theirs)
            self.assertEqual(history.our_path(theirs), ours)
        self.assertIsNone(history.our_path("drivers/iommu/iommufd/device.c"))

    def test_who_is_named_in_maintainers(self):
        self.assertTrue(proof.covers("rust/", "rust/kernel/a.rs"))
        self.assertTrue(proof.covers("a/*.c", "a/b.c"))
        self.assertFalse(proof.covers("a/*.c", "a/b/c.c"))
        self.assertFalse(proof.covers("a/b", "a/bc"))

    def test_a_choice_of_patches(self):
        self.assertEqual(proof.select(9, "1,3..5"), [0, 2, 3, 4])
        for wrong in ("0", "5..4", "10", "x"):
            with self.assertRaises(history.Problem):
                proof.select(9, wrong)


class Code(unittest.TestCase):
    def test_words_are_no_code(self):
        code = proof.code_only("""f("for (", '"'); /* while ( */ g(); // do {\n""")
        self.assertNotIn("for", code)
        self.assertNotIn("while", code)
        self.assertNotIn("do {", code)
        self.assertIn("g();", code)


if __name__ == "__main__":
    unittest.main()
