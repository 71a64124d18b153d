#!/bin/sh
# The accelerator's tests once more, with the C library built under AddressSanitizer and
# UndefinedBehaviorSanitizer. Usage: check_c.sh PYTHON [pytest arguments]
#
# The sanitized library lies in a folder of its own, and conftest.py loads it instead of the usual
# one. It is built anew when a source of it has changed: that takes a minute or two, the tests four; on two
# cores at once half of that (-n 2). What disassembles a library, or builds programs for another
# processor, runs nothing of this one and is left out.
# Leak detection is off: the interpreter itself never frees everything. What a sanitizer says is
# captured with the rest of a test; -s shows it.
set -eu
python=$1
shift
root=$(cd "$(dirname "$0")/../../.." && pwd)
folder=$root/build/sanitized
mkdir -p "$folder"
ops=$root/plugins/accelerator
library=$(cat "$folder/built" 2>/dev/null || true)
if [ ! -f "$library" ] || [ -n "$(find "$ops/csrc" "$ops/build_ops.py" -newer "$folder/built" -print -quit)" ]; then
    touch "$folder/begun"
    "$python" "$ops/build_ops.py" --sanitize --into "$folder" >"$folder/said"
    library=$(tail -n 1 "$folder/said")
    echo "$library" >"$folder/built"
    touch -r "$folder/begun" "$folder/built" # what changed meanwhile is newer
fi
cd "$root"
export CLAW_TEST_OPS="$library" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    exec "$python" -m pytest -q -p no:cacheprovider tests/plugins/accelerator \
    --ignore tests/plugins/accelerator/test_counts.py --ignore tests/plugins/accelerator/test_riscv.py "$@"
