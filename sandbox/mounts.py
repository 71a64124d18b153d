"""A private root for one worker: an empty tmpfs with read-only binds, four devices, a small tmp.

The sources are cloned into detached trees first, by the identity that may reach them (a root
daemon's venv may lie under /root), then attached below a new tmpfs, which becomes the root. The
host's tree is detached, so nothing outside the list has a name any more. No real /proc: static
copies only. Everything is nosuid; the tmp is noexec and bounded.
"""

import os
import stat
from pathlib import Path

from clawai.sandbox import paths
from clawai.sandbox import syscalls as sc
from clawai.sandbox.policy import Policy
from clawai.sandbox.programs import Programs

# Any existing folder can carry the new root; what it holds is covered, not changed.
_ANCHOR = "/tmp"
_MAX_COPY_BYTES = 1 << 20
_READ_ONLY = sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV
_WRITABLE = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
_DEVICE = sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC


def build_root(policy: Policy, visible: list[str], owner: int, programs: Programs) -> None:
    """Make and enter the root; ``visible`` are read-only paths, ``owner`` the uid of the tmp.

    Needs a fresh mount namespace and the right to mount in it. Raises OSError naming the path.
    """
    mask = os.umask(0o022)  # root's folders must be passable for the uid that it will drop to
    sc.mount("none", "/", "", sc.MS_REC | sc.MS_PRIVATE)
    links, trees = _clone_all(policy, visible, programs)
    copies = {name: _read_start(name) for name in paths.STATIC_COPIES if os.access(name, os.R_OK)}
    flags = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    sc.mount("claw-root", _ANCHOR, "tmpfs", flags, "mode=0755,size=4m,nr_inodes=4k")
    for name, target in links.items():
        Path(_inside(name)).symlink_to(target)
    for name, content in copies.items():
        _make_parents(name)
        Path(_inside(name)).write_bytes(content)
        Path(_inside(name)).chmod(0o444)
    # Before the trees: one of them may lie below the host's /tmp.
    Path(_inside("/tmp")).mkdir(exist_ok=True)
    size = f"mode=0700,size={policy.tmp_bytes},nr_inodes=4k,uid={owner},gid={owner}"
    sc.mount("claw-tmp", _inside("/tmp"), "tmpfs", flags, size)
    for name, tree in trees:
        _attach(name, tree)
    sc.restrict_mount(_ANCHOR, _READ_ONLY | sc.MOUNT_ATTR_NOEXEC)
    os.chdir(_ANCHOR)
    sc.pivot_root(".", ".")  # stacks the old root on the new one ...
    sc.umount(".")  # ... and this takes the old one away
    os.chdir("/")
    os.umask(mask)


def _clone_all(
    policy: Policy, visible: list[str], programs: Programs
) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """Symbolic links to recreate (such as /lib), and (name, detached tree), parents first."""
    links = {p: str(Path(p).readlink()) for p in visible if _is_root_link(p)}
    wanted = [(p, _READ_ONLY) for p in visible if p not in links]
    wanted += [(p, _DEVICE) for p in paths.DEVICES if os.access(p, os.F_OK)]
    wanted += [(p, _DEVICE) for p in policy.devices]
    readable = (*policy.read_paths, *programs.shown)
    wanted += [(p, _READ_ONLY) for p in readable if not _covered(p, visible)]
    wanted += [(p, _WRITABLE) for p in policy.write_paths]
    trees = []
    for name, attributes in sorted(wanted, key=lambda item: item[0].count("/")):
        try:
            place = os.path.realpath(name)
            if name in policy.devices and not stat.S_ISCHR(Path(place).stat().st_mode):
                raise OSError(19, "it is not a character device")
            tree = sc.clone_tree(place)
            sc.restrict_tree(tree, attributes)
        except OSError as error:
            raise OSError(error.errno, f"cannot show {name} to the worker: {error}") from error
        trees.append((name, tree))
    return links, trees


def _is_root_link(path: str) -> bool:
    return path.count("/") == 1 and Path(path).is_symlink()


def _covered(path: str, visible: list[str]) -> bool:
    return any(Path(path).is_relative_to(outer) for outer in visible)


def _inside(name: str) -> str:
    return _ANCHOR + name


def _make_parents(name: str) -> None:
    Path(_inside(name)).parent.mkdir(mode=0o755, parents=True, exist_ok=True)


def _attach(name: str, tree: int) -> None:
    target = Path(_inside(name))
    if not target.exists():
        _make_parents(name)
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            target.mkdir(mode=0o755)
        else:
            target.touch(mode=0o444)
    try:
        sc.attach_tree(tree, str(target))
    except OSError as error:
        raise OSError(error.errno, f"cannot show {name} to the worker: {error}") from error
    os.close(tree)


def _read_start(name: str) -> bytes:
    with Path(name).open("rb") as file:
        return file.read(_MAX_COPY_BYTES)
