# SPDX-License-Identifier: GPL-2.0
"""The commits of the series: the mails in patches/ that they are made of, and that are made of them; the directories, which
contain what they add; and the work trees that they are laid out in. See scripts/series."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
SERIES = TOP / "series"
PATCHES = TOP / "patches"
# Not a .patch, since git am stops at a message without a diff; before the patches in the order of names, for git send-email.
COVER = "0000-cover-letter.txt"

# Repository path prefix -> kernel path prefix.
MAPPING = {
    "drivers-iommu-iommufd-rust/": "drivers/iommu/iommufd-rust/",
    "rust-kernel/": "rust/",
    "Documentation/": "Documentation/",
    "tools-testing-selftests/": "tools/testing/selftests/",
}

# Who commits what nobody has committed yet: those who submit the series put in their own names.
NOBODY = ("The Submitter", "submitter@iommufd-rust.invalid")


class Problem(Exception):
    """Something a person must fix: what, then what to try."""

    def __init__(self, what, *tries):
        super().__init__(what)
        self.tries = tries


def say(*words):
    print(f"[{time.monotonic() - START:5.1f}s]", *words, file=sys.stderr, flush=True)


START = time.monotonic()

# ---- running things -------------------------------------------------------------------------------------------------

# The output must not depend on the user's configuration of git.
GIT_ENV = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}


def run(cmd, *, cwd=None, env=None, data=None, check=True):
    """Run CMD, return (status, output bytes); a failure is a Problem that shows the end of its errors."""
    done = subprocess.run(cmd, cwd=cwd, env={**os.environ, **GIT_ENV, **(env or {})}, input=data, capture_output=True)
    if check and done.returncode:
        tail = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-15:]
        raise Problem(f"{' '.join(map(str, cmd[:6]))}: status {done.returncode}\n    " + "\n    ".join(tail))
    return done.stdout if check else done


def git(*args, cwd, **kw):
    return run(["git", "-c", "safe.directory=*", "-c", "core.abbrev=12", *args], cwd=cwd, **kw)


def git_line(*args, cwd, **kw):
    return git(*args, cwd=cwd, **kw).decode().strip()


def toolbox(cmd, **kw):
    """Run CMD with the pinned tools."""
    return run([str(TOP / "scripts/toolbox"), "exec", *map(str, cmd)], **kw)


# ---- where things are -----------------------------------------------------------------------------------------------


class Places:
    """The directories of scripts/common.sh, and the base kernel."""

    def __init__(self):
        names = ("TREE", "BASE", "LOGS", "BUILD", "JOBS", "CACHE", "TOOLBOX", "TOOLBOX_ID")
        script = '. "$0" && for n in %s; do printf "%%s\\0" "${!n-}"; done' % " ".join(names)
        values = run(["bash", "-c", script, str(TOP / "scripts/common.sh")]).decode().split("\0")
        got = dict(zip(names, values))
        self.cache, self.tree, self.logs, self.build = (Path(got[n]) for n in ("CACHE", "TREE", "LOGS", "BUILD"))
        self.jobs, self.tools = int(got["JOBS"]), got["TOOLBOX"] or got["TOOLBOX_ID"]
        # Also for KDIR: scripts/kernel base reads the user's tree into it.
        self.base_repo = Path(got["BASE"])
        if not self.base_repo.exists():
            raise Problem(f"no base kernel in {self.base_repo}", "scripts/kernel base")
        # SERIES_HOME: of tests, which have a branch of their own.
        named = hashlib.sha256(str(self.base_repo).encode()).hexdigest()[:12]
        self.home = Path(os.environ.get("SERIES_HOME", self.cache / "series")) / named
        self.home.mkdir(parents=True, exist_ok=True)
        self.base = git_line("rev-parse", "--verify", "HEAD^{commit}", cwd=self.base_repo)
        self._repo = None

    @property
    def repo(self):
        """A bare repository for what we make, that borrows the base's objects."""
        if self._repo is None:
            repo = self.home / "series.git"
            common = git_line("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=self.base_repo)
            if not (repo / "HEAD").exists():
                git("init", "-q", "--bare", str(repo), cwd=self.home)
                git("config", "gc.auto", "0", cwd=repo)
            lent, borrowed = f"{common}/objects\n", repo / "objects/info/alternates"
            # Another run may be reading it.
            if not borrowed.exists() or borrowed.read_text() != lent:
                borrowed.with_suffix(f".{os.getpid()}").write_text(lent)
                borrowed.with_suffix(f".{os.getpid()}").rename(borrowed)
            self._repo = repo
        return self._repo


def version(places):
    """The kernel's, of its Makefile."""
    make = git("cat-file", "blob", f"{places.base}:Makefile", cwd=places.repo).decode()
    part = {k: v.strip() for k, v in re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) =(.*)$", make, re.M)}
    sub = part["SUBLEVEL"]
    return f"{part['VERSION']}.{part['PATCHLEVEL']}" + (f".{sub}" if sub not in ("", "0") else "") + part["EXTRAVERSION"]


# ---- the directories ------------------------------------------------------------------------------------------------


def kernel_path(path):
    """Where a file of the directories is in the kernel; None if it is in none of them."""
    return next((theirs + path[len(ours) :] for ours, theirs in MAPPING.items() if path.startswith(ours)), None)


def our_path(path):
    return next((ours + path[len(theirs) :] for ours, theirs in MAPPING.items() if path.startswith(theirs)), None)


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def in_directories():
    """{kernel path: (mode, blob, our path)} of what is there, without what git ignores."""
    out = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *(p.rstrip("/") for p in MAPPING), cwd=TOP)
    files = {}
    for path in sorted({p for p in out.decode().split("\0") if p and (TOP / p).is_file()}):
        mode = "100755" if os.access(TOP / path, os.X_OK) else "100644"
        files[kernel_path(path)] = mode, blob_id((TOP / path).read_bytes()), path
    return files


def added(places, tip):
    """The same of the files that the commits up to TIP add."""
    files = {}
    out = git("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=A", places.base, tip, cwd=places.repo).decode()
    for status, path in zip(*[iter(out.split("\0"))] * 2):
        _, mode, _, blob, _ = status.split()
        if our_path(path) is None:
            raise Problem(f"the series adds {path}, and no directory of ours is for it", "extend MAPPING in scripts/series")
        files[path] = mode, blob, our_path(path)
    return files


def edited(places, tip):
    """Kernel paths at which the directories are not what TIP has."""
    here, there = in_directories(), added(places, tip)
    return sorted(p for p in here.keys() | there.keys() if here.get(p) != there.get(p))


def with_directories(places, tip):
    """A commit of TIP with the files of the directories, and the paths that it changes."""
    paths, here = edited(places, tip), in_directories()
    if not paths:
        return tip, []
    lines = []
    for path in paths:
        if path in here and git("cat-file", "-e", f"{places.base}:{path}", cwd=places.repo, check=False).returncode == 0:
            raise Problem(f"{here[path][2]}: the kernel has {path}", "edit it in the work tree of `scripts/series tree`")
        mode, blob, _ = here.get(path, ("0", "0" * 40, None))
        lines.append(f"{mode} {blob}\t{path}\n")
    files = "".join(f"{TOP / here[p][2]}\n" for p in paths if p in here)
    git("hash-object", "-w", "--no-filters", "--stdin-paths", cwd=places.repo, data=files.encode())
    with tempfile.TemporaryDirectory(dir=places.home) as tmp:
        env = {"GIT_INDEX_FILE": tmp + "/index"}
        git("read-tree", tip, cwd=places.repo, env=env)
        git("update-index", "--index-info", cwd=places.repo, env=env, data="".join(lines).encode())
        tree = git_line("write-tree", cwd=places.repo, env=env)
    stamp = git_line("log", "-1", "--format=%ad", "--date=raw", tip, cwd=places.repo)
    return git_line("commit-tree", "-p", tip, "-m", "Edits of the directories", tree, cwd=places.repo, env=somebody(stamp)), paths


def somebody(date, name=NOBODY[0], mail=NOBODY[1]):
    """The environment in which git commits as NAME at DATE."""
    return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", name), ("EMAIL", mail), ("DATE", date))}


def write_directories(places, tip):
    """Make the directories what TIP has; returns our paths that changed."""
    here, there = in_directories(), added(places, tip)
    changed = [p for p in sorted(here.keys() | there.keys()) if here.get(p) != there.get(p)]
    for path in changed:
        if path in there:
            mode, blob, ours = there[path]
            (TOP / ours).parent.mkdir(parents=True, exist_ok=True)
            (TOP / ours).write_bytes(git("cat-file", "blob", blob, cwd=places.repo))
            (TOP / ours).chmod(0o755 if mode == "100755" else 0o644)
        else:
            (TOP / here[path][2]).unlink()
    return [(there.get(p) or here[p])[2] for p in changed]


# ---- mails ----------------------------------------------------------------------------------------------------------


class Series:
    """series/: what the mails say beside the commits."""

    def __init__(self):
        with open(SERIES / "series.toml", "rb") as f:
            d = tomllib.load(f)
        self.prefix, self.version = d["prefix"], d.get("version", 1)
        self.parts = [(p["title"], p["first"]) for p in d["part"]]
        self.alone = [p["title"] for p in d["part"] if p.get("alone", True)]

    def ranges(self, subjects):
        """[(title, number of the first patch, of the last)], from 1."""
        starts = []
        for title, first in self.parts:
            if subjects.count(first) != 1:
                raise Problem(f"series/series.toml: {subjects.count(first)} patches have the subject {first!r}, must be one",
                              "name the patch that this part begins with now")
            starts.append((title, subjects.index(first) + 1))
        if [n for _, n in starts] != sorted(n for _, n in starts) or starts[0][1] != 1:
            raise Problem("series/series.toml: the parts are not in the order of the patches, from the first")
        ends = [n - 1 for _, n in starts[1:]] + [len(subjects)]
        return [(title, first, last) for (title, first), last in zip(starts, ends)]

    def cover(self, subjects, base):
        """Subject and text of the cover letter."""
        subject, _, text = (SERIES / "cover.txt").read_text().partition("\n")
        parts = "\n".join(f"  {a:2}-{b:<2}  {t}" if b > a else f"  {a:2}     {t}" for t, a, b in self.ranges(subjects))
        text = text.strip("\n").replace("@PARTS@", parts).replace("@BASE@", f"Linux {base}")
        left = re.search(r"@[A-Z]+@", text)
        if left:
            raise Problem(f"series/cover.txt: don't know {left[0]}")
        return subject, text


def commits_of(places, tip):
    if git_line("rev-list", "--merges", f"{places.base}..{tip}", cwd=places.repo):
        raise Problem("the series has a merge, which no mail can say", "git rebase -i")
    return git_line("rev-list", "--reverse", f"{places.base}..{tip}", cwd=places.repo).split()


def subjects_of(places, tip):
    return git_line("log", "--reverse", "--format=%s", f"{places.base}..{tip}", cwd=places.repo).split("\n")


def mails_of(places, series, tip):
    """The mails of the commits up to TIP, {file name: bytes}, in order; the cover letter is the first."""
    subjects = subjects_of(places, tip)
    left = [s for s in subjects if re.match(r"(fixup|squash|amend)! ", s)]
    if left:
        raise Problem(f"not folded in yet: {left[0]}", "git rebase -i --autosquash")
    patches = plain_mails_of(places, series, tip)
    subject, text = series.cover(subjects, version(places))
    letter = patches[COVER].decode().replace("*** SUBJECT HERE ***", subject).replace("*** BLURB HERE ***", text)
    patches[COVER] = letter.encode()
    return patches


def plain_mails_of(places, series, tip):
    """The same, of any commits, with an empty cover letter."""
    # The cover letter is by whom the last patch is, and of its time: the same commits give the same bytes.
    name, mail, date = git_line("log", "-1", "--format=%an%n%ae%n%ad", "--date=raw", tip, cwd=places.repo).split("\n")
    with tempfile.TemporaryDirectory(dir=places.home) as tmp:
        git("-c", "diff.renames=true", "format-patch", "--quiet", "--zero-commit", "--no-signature", "--cover-letter",
            "--stat=75", "--summary", "--abbrev=12", "--diff-algorithm=histogram", "--notes", f"--base={places.base}",
            f"--subject-prefix={series.prefix}" + (f" v{series.version}" if series.version > 1 else ""),
            "-o", tmp, f"{places.base}..{tip}", cwd=places.repo, env=somebody(date, name, mail))
        letter, *mails = sorted(Path(tmp).iterdir())
        return {COVER: letter.read_bytes(), **{p.name: p.read_bytes() for p in mails}}


def note_of(mail):
    """What a mail says below its `---` before the diffstat: the note of its commit."""
    m = re.search(r"\n---\n\nNotes:\n((?: {4}.*\n|\n)+?)\n?(?= \S[^\n]* \| )", mail.decode())
    return re.sub(r"^ {4}", "", m[1], flags=re.M).strip("\n") if m else None


def write_patches(directory, patches):
    """Write what differs, remove what is gone; returns the names that changed."""
    directory.mkdir(parents=True, exist_ok=True)
    changed = []
    for old in patch_files(directory):
        if old.name not in patches:
            old.unlink()
            changed.append(old.name)
    for name, content in patches.items():
        file = directory / name
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
            changed.append(name)
    return changed


def patch_files(directory):
    """The cover letter and the patches that are there, in order."""
    return sorted([*directory.glob(COVER), *directory.glob("*.patch")])


def read_patches():
    return {p.name: p.read_bytes() for p in patch_files(PATCHES)}


def without_cover(patches):
    return [(name, content) for name, content in patches.items() if name != COVER]


def normal(patch):
    """PATCH without what another base of the same series would change: blob ids, line numbers, the base's id."""
    text = patch.decode()
    text = re.sub(r"^index [0-9a-f]+\.\.[0-9a-f]+", "index", text, flags=re.M)
    text = re.sub(r"^@@ -\d+(,\d+)? \+\d+(,\d+)? @@.*$", "@@", text, flags=re.M)
    return re.sub(r"^base-commit: .*$|Linux 7\.3[.\d]*", "", text, flags=re.M)


def unnumbered(patch):
    """PATCH without its number: how many precede and follow makes no difference to it."""
    return re.sub(rb"^(Subject: \[[^]]*?)\s*\d+/\d+\]", rb"\1]", patch, count=1, flags=re.M)


def differences(places, committed, generated):
    """Names of patches that are stale. Byte for byte on the base they were made for; else but for the base's traces."""
    same_base = any(f"base-commit: {places.base}".encode() in p for p in committed.values())
    key = (lambda p: p) if same_base else normal
    return [n for n in sorted(committed.keys() | generated.keys())
            if n not in committed or n not in generated or key(committed[n]) != key(generated[n])]


def as_mbox(patches):
    """One mailbox, threaded below the cover letter."""
    out = []
    first = None
    for n, (name, content) in enumerate(patches.items()):
        ident = f"<{hashlib.sha256(content).hexdigest()[:16]}-{n:04}@iommufd-rust.invalid>"
        header = f"Message-ID: {ident}\n" + (f"In-Reply-To: {first}\nReferences: {first}\n" if first else "")
        first = first or ident
        _, _, rest = content.decode().partition("\n")
        headers, _, body = rest.partition("\n\n")
        # b4 0.12 does not take a header of several lines.
        headers = re.sub(r"\n[ \t]+", " ", headers)
        body = re.sub(r"^(>*From )", r">\1", body, flags=re.M)
        out.append(f"From git@z Thu Jan  1 00:00:00 1970\n{header}{headers}\n\n{body}\n")
    return "".join(out).encode()


# ---- applying -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(places):
    """The work tree of git am is one at a time's."""
    with open(places.home / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def work_tree(places, commit, paths):
    """A work tree of our own at COMMIT, for git am and git rebase. The caller has the lock. Only the files at PATHS are laid
    out: git then takes no time over the other 90,000."""
    work = places.home / "am"
    if not (work / ".git").exists():
        git("worktree", "prune", cwd=places.repo)
        git("worktree", "add", "-q", "--detach", "--no-checkout", "--force", str(work), places.base, cwd=places.repo)
    # A run that was killed may have left what cannot be aborted.
    state = Path(git_line("rev-parse", "--absolute-git-dir", cwd=work))
    for left in ("rebase-apply", "rebase-merge"):
        shutil.rmtree(state / left, ignore_errors=True)
    (state / "index.lock").unlink(missing_ok=True)
    git("sparse-checkout", "set", "--no-cone", "--stdin", cwd=work, data="".join(f"/{p}\n" for p in sorted(paths)).encode())
    git("reset", "-q", "--hard", cwd=work)
    git("checkout", "-q", "--detach", commit, cwd=work)
    return work


def am(places, patches, fresh=False):
    """git am the patches (not the cover letter) on the base; unless FRESH, only those after the longest prefix done
    before. Returns the tip, and how many were applied."""
    with locked(places):
        tip, count = am_locked(places, patches, fresh)
    for (_, mail), commit in zip(without_cover(patches), commits_of(places, tip)):
        note = note_of(mail)
        if note and git("notes", "show", commit, cwd=places.repo, check=False).stdout.decode().strip("\n") != note:
            git("notes", "add", "-f", "-m", note, commit, cwd=places.repo, env=somebody("@0 +0000"))
    return tip, count


def am_locked(places, patches, fresh):
    tips, chain = [], places.base
    mails = without_cover(patches)
    for _, content in mails:
        chain = hashlib.sha256(chain.encode() + unnumbered(content)).hexdigest()
        tips.append(f"refs/tips/{chain}")
    known = set(git_line("for-each-ref", "--format=%(refname)", "refs/tips", cwd=places.repo).split())
    done = 0 if fresh else next((i + 1 for i in reversed(range(len(tips))) if tips[i] in known), 0)
    start = git_line("rev-parse", tips[done - 1], cwd=places.repo) if done else places.base
    if done == len(mails):
        return start, 0
    work = work_tree(places, start, {m.decode() for _, c in mails for m in re.findall(rb"^\+\+\+ b/(.+)$", c, re.M)})
    name, mail = "git am", "git-am@localhost"
    env = {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail}
    with tempfile.TemporaryDirectory(dir=places.home) as tmp:
        files = []
        for name, content in mails[done:]:
            Path(tmp, name).write_bytes(content)
            files.append(str(Path(tmp, name)))
        result = git("am", "--committer-date-is-author-date", "--keep-non-patch", *files, cwd=work, env=env, check=False)
    head = git_line("rev-parse", "HEAD", cwd=work)
    made = [] if head == start else git_line("rev-list", "--reverse", f"{start}..{head}", cwd=work).split()
    update = "".join(f"update {tips[done + i]} {c}\n" for i, c in enumerate(made))
    git("update-ref", "--stdin", cwd=places.repo, data=update.encode())
    if result.returncode:
        git("am", "--abort", cwd=work, check=False)
        wrong = mails[done + len(made)][0]
        raise Problem(f"git am stops at {wrong}:\n    " + (result.stdout + result.stderr).decode().strip().replace("\n", "\n    "))
    forget(places, known, tips)
    return head, len(made)


def forget(places, known, keep):
    """Drop the oldest tips beyond a few series' worth."""
    if len(known) < 1500:
        return
    names = git_line("for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/tips", cwd=places.repo).split()
    drop = [n for n in names if n not in set(keep)][:1000]
    git("update-ref", "--stdin", cwd=places.repo, data="".join(f"delete {n}\n" for n in drop).encode())


@contextlib.contextmanager
def locked_tree(places, tree):
    """The work tree TREE and its builds are ours alone, and of the scripts that we run: lock_tree -x of scripts/kernel."""
    if os.environ.get("TREE_LOCKED") == str(tree):
        yield
        return
    name = hashlib.sha256(str(tree).encode()).hexdigest()[:12]
    with open(places.cache / f".lock-tree-{name}", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {file.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        os.environ["TREE_LOCKED"] = str(tree)
        try:
            yield
        finally:
            del os.environ["TREE_LOCKED"]


def lay(places, tree, tip):
    """Bring the work tree TREE to TIP; only files that differ are written, so that make sees no other change."""
    if not (tree / ".git").exists():
        if tree.exists() and any(tree.iterdir()):
            raise Problem(f"{tree} exists and is no git work tree")
        say(f"laying out {tree}")
        tree.parent.mkdir(parents=True, exist_ok=True)
        git("init", "-q", str(tree), cwd=places.home)
        git("config", "gc.auto", "0", cwd=tree)
    # The objects are borrowed, not fetched: a tree with a history of its own would make git pack the whole kernel.
    objects, lent = Path(git_line("rev-parse", "--path-format=absolute", "--git-path", "objects", cwd=tree)), f"{places.repo}/objects"
    alternates = objects / "info/alternates"
    if lent not in (alternates.read_text().split("\n") if alternates.exists() else []):
        with open(alternates, "a") as f:
            f.write(f"{lent}\n")
    git("update-ref", "refs/heads/series/tip", tip, cwd=tree)
    head = git("rev-parse", "-q", "--verify", "HEAD", cwd=tree, check=False).stdout.decode().strip()
    if head != tip:
        done = git("-c", "advice.detachedHead=false", "checkout", "-q", "--detach", tip, cwd=tree, check=False)
        if done.returncode:
            raise Problem(f"{tree} has changes of its own in the way:\n    " + done.stderr.decode().strip().replace("\n", "\n    "),
                          f"git -C {tree} stash", f"or remove {tree}: it is laid out again")
    configure_tree(tree)
    return head


def configure_tree(tree):
    """What b4 and checkpatch want to find."""
    exclude = Path(git_line("rev-parse", "--path-format=absolute", "--git-path", "info/exclude", cwd=tree))
    exclude.parent.mkdir(exist_ok=True)
    if "/.b4-config" not in (exclude.read_text() if exclude.exists() else ""):
        with open(exclude, "a") as f:
            f.write("/.b4-config\n")
    source, target = TOP / "b4-config", tree / ".b4-config"
    if source.exists() and (not target.exists() or target.read_bytes() != source.read_bytes()):
        shutil.copyfile(source, target)


def ref(places, name):
    done = git("rev-parse", "-q", "--verify", f"{name}^{{commit}}", cwd=places.repo, check=False)
    return done.stdout.decode().strip() or None


def same_mails(places, series, commit):
    """Does patches/ say what the commits up to COMMIT are? The cover letter aside."""
    return commit is not None and set(differences(places, read_patches(), plain_mails_of(places, series, commit))) <= {COVER}


def touched(places, tip):
    return git_line("log", "--format=", "--name-only", "--no-renames", f"{places.base}..{tip}", cwd=places.repo).split()
