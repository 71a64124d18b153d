"""Run a command as an ordinary user who can read this interpreter: ``as_user.py UID CMD...``.

``UID+sys_nice`` leaves the user one capability, as AmbientCapabilities= of a unit does. Needs root.
The interpreter or the checkout may lie below a folder that only root may enter; then a private
mount namespace shows exactly those trees, read-only, below a fresh folder of that name.
"""

import os
import sys
from pathlib import Path

from clawai.sandbox import syscalls as sc


def closed_ancestor(path: Path) -> Path | None:
    """The outermost folder above ``path`` that others may not enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def open_up(trees: list[Path]) -> None:
    """Make every tree reachable for everyone, in a mount namespace of this process."""
    closed = {tree: folder for tree in trees if (folder := closed_ancestor(tree))}
    if not closed:
        return
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount("none", "/", "", sc.MS_REC | sc.MS_PRIVATE)
    clones = {tree: sc.clone_tree(str(tree)) for tree in closed}
    for folder in set(closed.values()):
        sc.mount("open", str(folder), "tmpfs", sc.MS_NOSUID, "mode=0755")
    for tree, clone in clones.items():
        tree.mkdir(parents=True)
        sc.attach_tree(clone, str(tree))


def main() -> None:
    """See the top of this module."""
    user, _, capability = sys.argv[1].partition("+")
    uid = int(user)
    here = Path(__file__).resolve().parents[2]
    open_up([Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), here])
    os.chdir("/tmp")
    if capability:
        kept = [f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}"]
        who = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        os.execvp("setpriv", ["setpriv", *who, *kept, *sys.argv[2:]])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
