# SPDX-License-Identifier: GPL-2.0
"""What `scripts/series check` shows of the series, as TAP: git am gives the directories, checkpatch, rustfmt and b4 find nothing
wrong, and each patch builds and its module loads."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from history import (
    GIT_ENV, START, TOP, am, as_mbox, commits_of, differences, edited, git, git_line, in_directories, lay,
    locked, mails_of, normal, our_path, Problem, read_patches, run, say, Series, subjects_of, toolbox, touched,
    unnumbered, version, without_cover, work_tree,
)

# All of upstream's C that may be linked into the Rust iommufd.
UPSTREAM_C = {"../iommufd/selftest.o", "../iommufd/hwpt_noiommu.o"}
# And what upstream's own Makefile may still build beside it, for IOMMU drivers.
UPSTREAM_KEPT = {"iommufd_driver.o", "driver.o", "iova_bitmap.o"}

# Whoever maintains a directory does not name each file in it.
NEW_FILE = "WARNING:FILE_PATH_CHANGES: added, moved or deleted file(s), does MAINTAINERS need updating?"
MISSING_SIGN_OFF = "ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)"


class Tap:
    """One line per check on standard output; progress goes to standard error."""

    def __init__(self):
        self.count = self.failed = 0

    def __call__(self, name, problems, notes=()):
        self.count += 1
        self.failed += bool(problems)
        for line in notes:
            print(f"# {line}")
        print(f"{'not ok' if problems else 'ok'} {self.count} - series: {name}")
        for problem in problems:
            for line in str(problem).split("\n"):
                print(f"#   {line}")
        sys.stdout.flush()
        return not problems

    def skip(self, name, why):
        self.count += 1
        print(f"ok {self.count} - series: {name} # SKIP {why}", flush=True)

    def attempt(self, name, work):
        """Run WORK, which returns (problems, notes) or problems, and may raise Problem."""
        try:
            found = work()
        except Problem as problem:
            return self(name, [problem, *(f"try: {t}" for t in problem.tries)])
        problems, notes = found if isinstance(found, tuple) else (found, ())
        return self(name, problems, notes)


def check_identity(places, tip):
    """The tree made by git am has the files of the directories."""
    problems = [f"{p} is not what {our_path(p)} is" for p in edited(places, tip)]
    names = git_line("diff-tree", "-r", "--no-renames", "--name-only", places.base, tip, cwd=places.repo).split("\n")
    count = len(in_directories())
    return problems, [f"{count} files of the directories, {len(names) - count} edited files of the base"]


def check_parts(places, series, tip):
    """Each part that can be taken without the others is merged with the base alone."""
    commits, problems, count = commits_of(places, tip), [], 0
    for title, first, last in series.ranges(subjects_of(places, tip)):
        if title in series.alone:
            count += 1
            before = commits[first - 2] if first > 1 else places.base
            # The git of the toolbox: that of Debian 12 does not know --merge-base here.
            done = toolbox(["git", "-c", "safe.directory=*", f"--git-dir={places.repo}", "merge-tree", "--write-tree", "--name-only",
                            "--no-messages", f"--merge-base={before}", places.base, commits[last - 1]], check=False, cwd=places.repo)
            if done.returncode:
                files = " ".join(done.stdout.decode().split()[1:])
                problems.append(f"patches {first} to {last} need others in {files or done.stderr.decode()}: {title}")
    return problems, [f"{count} of {len(series.parts)} parts"]


def named(places):
    """Patterns of files that somebody maintains, in the base: without those of \"THE REST\"."""
    text = git("cat-file", "blob", f"{places.base}:MAINTAINERS", cwd=places.repo).decode(errors="replace")
    return [p for p in re.findall(r"^F:\s+(\S+)$", text, re.M) if p not in ("*", "*/")]


def covers(pattern, path):
    """As scripts/get_maintainer.pl: a directory ends in a slash, * stops at one."""
    regex = re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.match(regex if pattern.endswith("/") else regex + r"\Z", path) is not None


class Clean:
    """What a tool has found nothing wrong with, by hash, so that it need not look again. By `with`: written at the end."""

    def __init__(self, places, tool):
        self.file, self.tool = places.home / "clean", f"{tool} {places.tools}"

    def __enter__(self):
        # Of the host's tools we do not know when they change.
        nothing = self.tool.endswith(" host") or not self.file.exists()
        self.known, self.new = set(() if nothing else self.file.read_text().split()), set()
        return self

    def __exit__(self, *_):
        with open(self.file, "a") as f:
            f.write("".join(f"{key}\n" for key in sorted(self.new)))

    def key(self, content):
        return hashlib.sha256(self.tool.encode() + content).hexdigest()

    def check(self, content, work):
        """WORK(), which returns problems, unless CONTENT had none before."""
        key = self.key(content)
        problems = [] if key in self.known else work()
        if not problems:
            self.new |= {key} - self.known
        return problems


def check_checkpatch(places, patches, tree):
    """Run checkpatch --strict: the only complaint may be the missing sign-off of each patch."""
    mails, patterns = without_cover(patches), named(places)
    script = (tree / "scripts/checkpatch.pl").read_bytes()

    def one(mail):
        name, content = mail
        with tempfile.NamedTemporaryFile(suffix=".patch", dir=places.home) as file:
            file.write(content)
            file.flush()
            out = toolbox(["perl", tree / "scripts/checkpatch.pl", "--strict", "--terse", "--show-types", "--no-summary",
                           # The base has no history in which the commit of a Fixes tag could be found.
                           "--ignore", "UNKNOWN_COMMIT_ID",
                           f"--root={tree}", file.name], check=False, cwd=tree)
        lines = (out.stdout + out.stderr).decode(errors="replace").replace(file.name, name).splitlines()
        found = [l for l in lines if l.strip() and not l.endswith(MISSING_SIGN_OFF)]
        new = re.findall(rb"^new file mode .*\n(?:.*\n)*?\+\+\+ b/(.+)$", content, re.M)
        if all(any(covers(p, path.decode()) for p in patterns) for path in new):
            found = [l for l in found if not l.endswith(NEW_FILE)]
        if not any(l.endswith(MISSING_SIGN_OFF) for l in lines):
            found.append(f"{name}: checkpatch did not run, or the patch is signed off: {' '.join(lines[:3])}")
        return found

    with Clean(places, f"checkpatch {hashlib.sha256(script).hexdigest()}") as clean, ThreadPoolExecutor(places.jobs) as pool:
        look = lambda mail: clean.check(unnumbered(mail[1]), lambda: one(mail))
        return [line for found in pool.map(look, mails) for line in found], [f"{len(clean.new)} patches anew"]


def check_rustfmt(places, commits, tree):
    """Each Rust file as each patch leaves it."""
    def one(item, text):
        commit, path, number = item
        out = run([*formatter, "--check", "--config-path", str(tree / ".rustfmt.toml"), "--edition", "2021"],
                  data=text, check=False, cwd=places.home)
        if out.returncode == 0:
            return []
        words = (out.stdout or out.stderr).decode(errors="replace").strip().splitlines()
        return [f"patch {number}: {path}: " + "\n  ".join(words[:12])]

    formatter = [str(TOP / "scripts/toolbox"), "exec", "rustfmt"]
    style = (tree / ".rustfmt.toml").read_bytes()
    items = []
    for number, commit in enumerate(commits, 1):
        for path in git_line("diff-tree", "--no-commit-id", "-r", "--name-only", "--diff-filter=AM", commit, cwd=places.repo).split():
            if path.endswith(".rs"):
                items.append((commit, path, number))

    def look(item):
        text = git("show", f"{item[0]}:{item[1]}", cwd=places.repo)
        return clean.check(text, lambda: one(item, text))

    with Clean(places, f"rustfmt {hashlib.sha256(style).hexdigest()}") as clean, ThreadPoolExecutor(places.jobs) as pool:
        return ([line for found in pool.map(look, items) for line in found],
                [f"{len(items)} states of Rust files, {len(clean.new)} anew"])


def check_b4(places, patches, tip):
    """b4 am finds the whole series in the mailbox, and b4 shazam makes the same tree of it as git am."""
    with tempfile.TemporaryDirectory(dir=places.home) as tmp:
        Path(tmp, "series.mbox").write_bytes(as_mbox(patches))
        env = {"XDG_CACHE_HOME": tmp + "/cache", "XDG_DATA_HOME": tmp + "/data", "HOME": tmp,
               "GIT_COMMITTER_NAME": "b4", "GIT_COMMITTER_EMAIL": "b4@localhost"}

        def b4(*args, cwd):
            return toolbox(["env", *(f"{k}={v}" for k, v in env.items()), "b4", "--offline-mode", *args], check=False, cwd=cwd)

        out = b4("am", "-m", tmp + "/series.mbox", "-o", tmp + "/out", cwd=tmp)
        text = (out.stdout + out.stderr).decode(errors="replace")
        boxes = list(Path(tmp, "out").glob("*.mbx")) if Path(tmp, "out").exists() else []
        want = len(patches) - 1
        if out.returncode or len(boxes) != 1 or f"Total patches: {want}\n" not in text:
            return [text]
        mails = git("mailsplit", f"-o{tmp}", str(boxes[0]), cwd=tmp, env={"GIT_DIR": str(places.repo)}).decode().strip()
        if int(mails) != want:
            return [f"{boxes[0].name} holds {mails} messages, not {want}"]
        # Where git am has worked, which has all files that it needs.
        with locked(places):
            work = work_tree(places, places.base, touched(places, tip))
            out = b4("shazam", "-m", tmp + "/series.mbox", cwd=work)
            trees = git_line("rev-parse", "HEAD^{tree}", f"{tip}^{{tree}}", cwd=work).split("\n")
            if out.returncode or trees[0] != trees[1]:
                git("am", "--abort", cwd=work, check=False)
                return ["b4 shazam does not end at what git am makes:", *(out.stdout + out.stderr).decode().splitlines()[-15:]]
    return [], [f"{want} patches by b4 am, and by b4 shazam the tree {trees[0][:12]}"]


def code_only(text):
    """C without the contents of strings, characters and comments."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\'\\\n])\'', re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def check_linked(places, tip):
    """Only the upstream C that DESIGN allows, and a shim that decides nothing."""
    problems = []
    names = git_line("ls-tree", "-r", "--name-only", tip, "drivers/iommu/iommufd-rust/", cwd=places.repo).split()
    for name in names:
        text = git("show", f"{tip}:{name}", cwd=places.repo).decode()
        if name.endswith("/Makefile"):
            linked = set(re.findall(r"\.\./[\w./-]+\.o\b", text))
            problems += [f"{name} links {o}" for o in sorted(linked - UPSTREAM_C)]
        if name.endswith((".c", ".h")):
            problems += [f"{name} includes {i}" for i in re.findall(r'#\s*include\s+[<"]([^">]*\.c)[">]', text)]
        if name.endswith(".c"):
            code = code_only(text)
            problems += [f"{name} has a loop: {m.strip()}" for m in
                         re.findall(r"^.*\b(?:for|while|do|goto|\w*for_each\w*)\b\s*[({].*$", code, re.M)]
    built = places.build / "rust/drivers/iommu"
    mod = built / "iommufd-rust/iommufd.mod"
    if mod.exists():
        objects = mod.read_text().split()
        foreign = [o for o in objects if not o.startswith("drivers/iommu/iommufd-rust/")]
        ours = {"drivers/iommu/iommufd-rust/" + u for u in UPSTREAM_C} | {"drivers/iommu/iommufd/" + u.rsplit("/", 1)[1] for u in UPSTREAM_C}
        problems += [f"{mod} holds {o}" for o in foreign if o not in ours]
        order = built.parent.parent / "modules.order"
        text = order.read_text() if order.exists() else ""
        problems += [f"modules.order has {l}" for l in text.split() if l.startswith("drivers/iommu/iommufd/")
                     and l.rsplit("/", 1)[1] not in UPSTREAM_KEPT]
        archive = built / "iommufd/built-in.a"
        if archive.exists():
            members = toolbox(["ar", "t", archive], cwd=places.home).decode().split()
            problems += [f"{archive} holds {m}" for m in members if m.rsplit("/", 1)[-1] not in UPSTREAM_KEPT]
        return problems, [f"linked: {' '.join(objects)}"]
    return problems, ["no Rust build to look into; only the sources were"]


def make_in(name, *targets, log):
    with open(log, "ab") as out:
        done = subprocess.run([str(TOP / "scripts/kernel"), "make", name, *targets], stdout=out, stderr=out,
                              stdin=subprocess.DEVNULL, env={**os.environ, **GIT_ENV})
    return done.returncode


DRIVER = "drivers/iommu/iommufd-rust/"
# What compiles to nothing in the kernel.
NO_OBJECTS = ("tools/", "Documentation/", "MAINTAINERS")


def targets_of(changed, driver):
    """What make is to build for a patch that changes these files: as little as shows that they compile. DRIVER: the Rust
    driver is there already."""
    targets = {DRIVER + "iommufd.ko"} if driver else {"prepare"}
    for path in changed:
        if path.startswith(("rust/", DRIVER, *NO_OBJECTS)) or path.endswith(("Kconfig", "Makefile")):
            continue
        # Who includes a header elsewhere is not known.
        if not re.match(r"(drivers|fs|kernel|lib|mm)/.", path):
            return ["vmlinux", "modules"]
        targets.add(os.path.dirname(path) + "/")
    return sorted(targets)


def compiled(build, paths):
    """Those of PATHS that an object of the build directory is made of."""
    found = set()
    for top in sorted({"rust", *("/".join(p.split("/")[:2]) for p in paths)}):
        for directory, _, names in os.walk(build / top):
            for name in names:
                if name.startswith(".") and name.endswith(".cmd"):
                    text = Path(directory, name).read_text(errors="replace")
                    found |= {p for p in paths if re.search(rf"[ /]{re.escape(p)}[ )\n]", text)}
    return found


class Builder:
    """The build directory of the tip, moved from patch to patch."""

    def __init__(self, places, tree):
        self.places, self.tree = places, tree
        self.build = places.build / "rust"
        self.log = places.logs / "series-build.log"
        self.log.write_bytes(b"")
        self.config = (self.build / ".config").read_bytes()
        # scripts/kernel uses this file to recognise its configuration; an interrupted run leaves none.
        self.stamp_file = self.build / ".config-stamp"
        self.stamp = self.stamp_file.read_bytes()
        self.at = self.set = None
        # Whose exports modpost finds, in vmlinux.o: a commit's, in a configuration.
        self.linked = git_line("rev-parse", "HEAD", cwd=tree), self.config

    def config_of(self, commit, off=()):
        """The tip's configuration, without what the driver cannot be built with yet, and without OFF."""
        done = git("cat-file", "blob", f"{commit}:{DRIVER}Kconfig", cwd=self.places.repo, check=False)
        entry = re.search(r"^config IOMMUFD_RUST$(.*?)(?=^config |\Z)", done.stdout.decode(), re.M | re.S)
        not_yet = re.findall(r"^\s+depends on (?:!(\w+)|(\w+)=n)$", entry[1], re.M) if entry else []
        lines = self.config.decode()
        for symbol in ("".join(pair) for pair in [*not_yet, *((o,) for o in off)]):
            lines = re.sub(rf"^CONFIG_{symbol}=.*$", f"# CONFIG_{symbol} is not set", lines, flags=re.M)
        return lines.encode()

    def exports_differ(self, commit):
        """Whether vmlinux.o is of a kernel that may export something else than COMMIT's does."""
        linked, config = self.linked
        changed = git_line("diff", "--name-only", linked, commit, cwd=self.places.repo).split()
        return config != self.config_of(commit) or any(not p.startswith((DRIVER, *NO_OBJECTS)) for p in changed)

    def go(self, title, commit, targets, off=()):
        """Builds TARGETS at COMMIT. Returns what was wrong."""
        lay(self.places, self.tree, commit)
        with open(self.log, "ab") as out:
            out.write(f"\n==== {title}\n".encode())
        size = self.log.stat().st_size
        config = self.config_of(commit, off)
        if {"vmlinux", "bzImage"} & set(targets):
            self.linked = commit, config
        kconfig = self.at is None or any("Kconfig" in p for p in git_line(
            "diff", "--name-only", self.at, commit, cwd=self.places.repo).split())
        self.at, failed = commit, 0
        if kconfig or config != self.set:
            self.stamp_file.unlink(missing_ok=True)
            (self.build / ".config").write_bytes(config)
            failed = make_in("rust", "olddefconfig", log=self.log)
            self.set = config
        failed = failed or make_in("rust", *targets, log=self.log)
        fresh = self.log.read_bytes()[size:].decode(errors="replace")
        if failed:
            wrong = re.findall(r"^(?:error.*\n *-->.*|.*(?:error: |undefined!|Error ).*)", fresh, re.M)
            return [f"whole log: {self.log}, after ==== {title}", *wrong[:20]]
        return re.findall(r"^.*\bwarning: .*(?:\n *--> .*)?", fresh, re.M)

    def home(self, tip):
        lay(self.places, self.tree, tip)
        (self.build / ".config").write_bytes(self.config)
        self.stamp_file.write_bytes(self.stamp)


def build_tip():
    return subprocess.run([str(TOP / "scripts/kernel"), "build", "rust"], stdout=sys.stderr, stdin=subprocess.DEVNULL).returncode


def check_builds(places, patches, tree, commits, numbers, tap, full):
    """Build what each of the patches NUMBERS (from 0) changes, on its own, in order, and go on after one that fails; leave the
    build directory at the tip. A module may use what the tip exports, or, with FULL and wherever a patch had vmlinux linked
    anew, no more than its own patch does. Each is loaded in a guest, on the tip's kernel."""
    say(f"building the tip; then {len(numbers)} of {len(commits)} patches, one after the other")
    failed = build_tip()
    if not tap("the tip builds", [f"scripts/kernel build rust: status {failed}"] if failed else []):
        return
    builder = Builder(places, tree)
    names = [name.removesuffix(".patch") for name, _ in without_cover(patches)]
    kept = places.home / f"modules-{os.getpid()}" / "modules"
    module = builder.build / DRIVER / "iommufd.ko"
    try:
        for number in numbers:
            name, commit, start = names[number], commits[number], time.monotonic()
            title = f"patch {name} builds"
            status = [l.split("\t") for l in git_line("diff-tree", "-r", "--no-commit-id", "--name-status", commit,
                                                      cwd=places.repo).split("\n")]
            changed = [l[1] for l in status]
            if all(p.startswith(NO_OBJECTS) for p in changed):
                tap(title, [], ["nothing of it is part of the kernel"])
                continue
            say(f"{title} ...")
            driver = git("cat-file", "-e", f"{commit}:{DRIVER}Kconfig", cwd=places.repo, check=False).returncode == 0
            targets = targets_of(changed, driver)
            if driver and "vmlinux" not in targets and (full or builder.linked[0] != commits[-1]) and builder.exports_differ(commit):
                targets.insert(0, "vmlinux")
            problems = builder.go(title, commit, targets)
            sources = {p for p in changed if p.endswith((".rs", ".c", ".h")) and not p.startswith(NO_OBJECTS)}
            inside = compiled(builder.build, sources)
            if not problems and sources and not inside:
                problems = ["none of its files is compiled: is it wired in?"]
            outside = {l[1] for l in status if l[0] == "A"} & sources - inside
            if not problems and driver:
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(module, kept / f"{name}.ko")
            tap(title, problems, [f"{len(inside)} of {len(sources)} files compiled in {time.monotonic() - start:.0f} s"
                                  + (f", not yet {', '.join(sorted(outside))}" if outside else "")])
        if full:
            say("the C driver, with the option off ...")
            tap("the C driver builds with the option off",
                builder.go("C", commits[-1], [os.path.dirname(DRIVER[:-1]) + "/", "drivers/vfio/"], ["IOMMUFD_RUST"]))
    finally:
        builder.home(commits[-1])
    tap("the tip builds again", builder.go("the tip", commits[-1], ["bzImage", "modules"]))
    if full:
        ours = {p for p in in_directories() if p.startswith(("rust/", DRIVER)) and p.endswith((".rs", ".c"))}
        tap("each of our files is compiled", sorted(ours - compiled(builder.build, ours)), [f"{len(ours)} files"])
    if kept.exists():
        tap.attempt("the module of each of these patches loads", lambda: check_loads(kept))
        shutil.rmtree(kept.parent)


def check_loads(modules):
    """Each module of the directory loads in one guest."""
    done = run([str(TOP / "scripts/guest"), "--name", "load", "--add", str(modules), "exec", str(TOP / "scripts/guest.d/load")],
               check=False, env={"IMPL": "rust"})
    names = [p.stem for p in sorted(modules.iterdir())]
    if done.returncode:
        return [done.stdout.decode(errors="replace").strip(), *done.stderr.decode(errors="replace").strip().splitlines()[-8:]]
    return [], [f"loaded: {', '.join(names)}"]


def changed_patches(patches):
    """Numbers of the patches that origin/main does not have, by their diff; None without origin/main."""
    if git("rev-parse", "-q", "--verify", "origin/main", cwd=TOP, check=False).returncode:
        return None
    known = set()
    for path in git_line("ls-tree", "--name-only", "origin/main", "patches/", cwd=TOP).split():
        known.add(diff_of(git("show", f"origin/main:{path}", cwd=TOP)))
    return [i for i, (_, c) in enumerate(without_cover(patches)) if diff_of(c) not in known]


def diff_of(mail):
    text = normal(mail)
    return text[text.find("\ndiff --git ") :]


def prove(args, places, settings, full, tap):
    state, series, patches = {}, Series(), read_patches()

    def own_tests():
        run([sys.executable, str(TOP / "tests/series_test.py")])
        return []

    def mails():
        # From the pristine base, whatever was applied before.
        state["tip"], _ = am(places, patches, fresh=not args.only)
        return []

    def same():
        made = [mails_of(places, series, state["tip"]) for _ in range(2)]
        if made[0] != made[1]:
            return ["the same commits give different mails"]
        stale = differences(places, patches, made[0])
        return [f"not what git makes of it: {', '.join(stale[:5])}{' ...' if len(stale) > 5 else ''}",
                "try: scripts/series tree; scripts/series export"] if stale else []

    tap.attempt("its own tests", own_tests)
    if not tap.attempt(f"git am on Linux {version(places)}", mails):
        return finish(tap)
    tip, tree = state["tip"], places.tree
    commits = commits_of(places, tip)
    if args.only:
        check_builds(places, patches, tree, commits, select(len(commits), args.only), tap, False)
        return finish(tap)
    tap.attempt("the export of these commits is patches/, byte for byte", same)
    if not tap.attempt("the resulting tree is the directories", lambda: check_identity(places, tip)):
        say("scripts/series fold carries an edit of the directories into patches/")
    lay(places, tree, tip)
    say(f"checkpatch, rustfmt and b4 on {len(commits)} patches")
    tap.attempt("a part merges without the others", lambda: check_parts(places, series, tip))
    tap.attempt("checkpatch --strict", lambda: check_checkpatch(places, patches, tree))
    tap.attempt("rustfmt, at each patch", lambda: check_rustfmt(places, commits, tree))
    tap.attempt("b4 am, b4 shazam", lambda: check_b4(places, patches, tip))
    if settings.get("BUILD", os.environ.get("BUILD_PATCHES", "1")) not in ("0", "n", "no"):
        if full:
            numbers = list(range(len(commits)))
        else:
            numbers = changed_patches(patches)
            if numbers is None:
                say("no origin/main to compare with: of the patches, only the last state is built")
                numbers = []
        check_builds(places, patches, tree, commits, numbers, tap, full)
    tap.attempt("of upstream's C, only what may be is linked", lambda: check_linked(places, tip))
    return finish(tap)


def select(count, names):
    """Numbers (from 0) of the patches that NAMES, as --only has them, stand for."""
    out = []
    for name in names.split(","):
        m = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", name)
        first, last = (int(m[1]), int(m[2] or m[1])) if m else (0, 0)
        if not 1 <= first <= last <= count:
            raise Problem(f"--only {name}: there are patches 1 to {count}", "ls patches")
        out += range(first - 1, last)
    return out


def finish(tap):
    print(f"1..{tap.count}")
    print(f"# {tap.count - tap.failed} ok, {tap.failed} not ok, in {time.monotonic() - START:.0f} s")
    return 1 if tap.failed else 0
